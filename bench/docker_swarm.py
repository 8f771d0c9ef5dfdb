"""The peer: a real Docker Swarm (Debian's docker.io), a dockerd on each node of a lab, as flota's daemon would be.

Driven over the Engine API with docker-py, as flota is driven over its own API: no command line's start-up time on
either side. Needs root and the Debian packages docker.io and busybox-static.
"""

import io
import os
import subprocess
import tarfile
from typing import Any

import docker
from docker.errors import DockerException

from bench.workload import IMAGE, IMPATIENCE, until
from flota.node.lab import Lab, LabNode, places

_NAME = f"d{os.getpid()}"


def daemon_command(lab: str) -> str:
    """What a node of a lab runs instead of flota's daemon."""
    return (
        f"exec dockerd --data-root {places.STATE}/{lab}/$(hostname)/docker --exec-root /run/docker "
        "--pidfile /run/docker.pid -H unix:///run/docker.sock"
    )


class DockerNode:
    """One dockerd."""

    def __init__(self, node: LabNode) -> None:
        self.node = node
        self.name, self.address = node.name, node.address
        self.api = self._client(20)
        # Of a manager that waits for a dead leader nobody waits for longer.
        self.impatient = self._client(IMPATIENCE)

    def _client(self, timeout: int) -> Any:
        socket = f"unix://{self.node.run_directory}/docker.sock"
        return docker.APIClient(base_url=socket, version="1.41", timeout=timeout)

    def answers(self) -> bool:
        try:
            return bool(self.api.ping())
        except (DockerException, OSError):
            return False

    def rss_mib(self) -> dict[str, float]:
        """Resident MiB of dockerd and of its containerd."""
        listed = self.node.exec(["ps", "-eo", "comm=,rss="]).stdout
        sizes = dict(line.split() for line in listed.splitlines())
        return {name: int(sizes[name]) / 1024 for name in ("dockerd", "containerd")}


class DockerSwarm:
    """The workload's verbs on Docker Swarm."""

    name = "swarm"

    def __init__(self) -> None:
        self._lab: Lab | None = None
        self.nodes: list[DockerNode] = []
        # What does not change is asked for once.
        self._hosts: dict[str, str] = {}

    @property
    def lab(self) -> Lab:
        """The lab, once `up` has run."""
        assert self._lab is not None
        return self._lab

    def up(self, machines: int) -> None:
        self._lab = Lab.up(_NAME, 3, machines - 3, swarm=False, command=["/bin/sh", "-c", daemon_command(_NAME)])
        self.nodes = [DockerNode(node) for node in self.lab.nodes.values()]
        for node in self.nodes:
            if until(node.answers, 30) is None:
                raise RuntimeError(f"dockerd did not start: {(node.node.disk / 'log').read_text()[-600:]}")
        repository, tag = IMAGE.split(":")
        tree = root_file_system()
        for node in self.nodes:
            node.api.import_image_from_data(tree, repository=repository, tag=tag)

    def init(self) -> None:
        self.nodes[0].api.init_swarm(advertise_addr=self.nodes[0].address)

    def join(self, index: int, manager: bool) -> None:
        first, node = self.nodes[0], self.nodes[index]
        token = first.api.inspect_swarm()["JoinTokens"]["Manager" if manager else "Worker"]
        node.api.join_swarm([f"{first.address}:2377"], token, advertise_addr=node.address)

    def create(self, name: str, replicas: int, via: int = 0) -> None:
        container = docker.types.ContainerSpec(IMAGE, command=["/bin/sleep"], args=["100000"], stop_grace_period=0)
        api = self.nodes[via].impatient if via else self.nodes[via].api
        api.create_service(
            docker.types.TaskTemplate(container),
            name=name,
            mode=docker.types.ServiceMode("replicated", replicas),
            update_config=docker.types.UpdateConfig(parallelism=5, delay=0, monitor=0, order="stop-first"),
        )

    def _update(self, name: str, change: Any) -> None:
        api = self.nodes[0].api
        service = api.inspect_service(name)
        change(service["Spec"])
        spec = service["Spec"]
        url = api._url("/services/{0}/update", service["ID"])
        answer = api._post_json(url, data=spec, params={"version": service["Version"]["Index"]})
        api._raise_for_status(answer)

    def scale(self, name: str, replicas: int) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["Mode"]["Replicated"]["Replicas"] = replicas

        self._update(name, change)

    def set_environment(self, name: str, value: str) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["TaskTemplate"]["ContainerSpec"]["Env"] = [value]

        self._update(name, change)

    def update_completed(self, name: str) -> bool:
        state: str = self.nodes[0].api.inspect_service(name).get("UpdateStatus", {}).get("State", "")
        return state == "completed"

    def remove(self, name: str) -> None:
        self.nodes[0].api.remove_service(name)

    def running(self, name: str, via: int = 0) -> list[str]:
        api = self.nodes[via].api
        if len(self._hosts) < len(self.nodes):
            self._hosts = {node["ID"]: node["Description"]["Hostname"] for node in api.nodes()}
        tasks = api.tasks(filters={"service": name, "desired-state": "running"})
        return [self._hosts.get(task.get("NodeID"), "") for task in tasks if task["Status"]["State"] == "running"]

    def containers(self) -> int:
        return sum(len(node.api.containers(quiet=True)) for node in self.nodes if node.node.running)

    def hostname(self, index: int) -> str:
        return self.nodes[index].name

    def kill(self, index: int) -> None:
        self.lab.kill(self.nodes[index].name)

    def answers(self, via: int) -> bool:
        try:
            return bool(self.nodes[via].impatient.nodes())
        except (DockerException, OSError):
            return False

    def rss_mib(self, index: int) -> float:
        return self.nodes[index].rss_mib()["dockerd"]

    def node_rss_mib(self, index: int) -> float:
        return sum(self.nodes[index].rss_mib().values())

    def down(self) -> None:
        for node in self.nodes:
            node.api.close()
            node.impatient.close()
        if self._lab is not None:
            self._lab.down()


def root_file_system() -> bytes:
    """A tar of busybox and its sleep."""
    busybox = subprocess.run(["sh", "-c", "command -v busybox"], capture_output=True, text=True, check=True).stdout
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tree:
        tree.add(busybox.strip(), "bin/busybox")
        link = tarfile.TarInfo("bin/sleep")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tree.addfile(link)
    return buffer.getvalue()
