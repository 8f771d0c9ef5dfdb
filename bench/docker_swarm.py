"""The peer: a real Docker Swarm (Debian's docker.io), each dockerd in its own network and mount namespace.

Driven over the Engine API with docker-py, as flota is driven over its own API: no command line's start-up time on
either side. Needs root and the Debian packages docker.io, busybox-static, iproute2, iptables.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException

from bench.workload import IMAGE, until

SUBNET = "10.213.7"
BRIDGE = "dswbr"


def ip(*argv: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


class DockerNode:
    """One dockerd in its namespaces."""

    def __init__(self, index: int, root: Path) -> None:
        self.name = f"dsw{index + 1}"
        self.address = f"{SUBNET}.{index + 1}"
        self.root = root / self.name
        self.root.mkdir()
        self.socket = self.root / "docker.sock"
        ip("netns", "add", self.name)
        ip("link", "add", f"{self.name}u", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", f"{self.name}u", "master", BRIDGE, "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        # runc refuses a cgroup2 mount beside the v1 controllers, and /run must be the node's own.
        script = (
            "mount -t tmpfs tmpfs /run; umount /sys/fs/cgroup/unified 2>/dev/null;"
            f"hostname {self.name};"
            f"exec dockerd --data-root {self.root}/data --exec-root {self.root}/exec "
            f"--pidfile {self.root}/pid -H unix://{self.socket}"
        )
        with (self.root / "log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self.name}"),
                    *("unshare", "-m", "-u", "--propagation", "private", "sh", "-c", script),
                ],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._api: Any = None

    @property
    def api(self) -> Any:
        if self._api is None:
            self._api = docker.APIClient(base_url=f"unix://{self.socket}", version="1.41", timeout=20)
        return self._api

    def answers(self) -> bool:
        try:
            return bool(self.api.ping())
        except (DockerException, OSError):
            return False

    def rss_mib(self) -> float:
        pid = (self.root / "pid").read_text().strip()
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"{self.name} has no VmRSS")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class DockerSwarm:
    """The workload's verbs on Docker Swarm."""

    name = "swarm"

    def up(self, machines: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dsw"))
        self.nodes: list[DockerNode] = []
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        self.nodes = [DockerNode(index, self.root) for index in range(machines)]
        for node in self.nodes:
            if until(node.answers, 30) is None:
                raise RuntimeError(f"dockerd did not start: {(node.root / 'log').read_text()[-600:]}")
        tree = self.root / "image"
        (tree / "bin").mkdir(parents=True)
        shutil.copy("/usr/bin/busybox", tree / "bin")
        (tree / "bin/sleep").symlink_to("busybox")
        archive = self.root / "image.tar"
        subprocess.run(["tar", "-C", str(tree), "-cf", str(archive), "."], check=True)
        repository, tag = IMAGE.split(":")
        for node in self.nodes:
            node.api.import_image_from_file(str(archive), repository=repository, tag=tag)

    def init(self) -> None:
        self.nodes[0].api.init_swarm(advertise_addr=self.nodes[0].address)

    def join(self, index: int, manager: bool) -> None:
        first, node = self.nodes[0], self.nodes[index]
        token = first.api.inspect_swarm()["JoinTokens"]["Manager" if manager else "Worker"]
        node.api.join_swarm([f"{first.address}:2377"], token, advertise_addr=node.address)

    def create(self, name: str, replicas: int, via: int = 0) -> None:
        container = docker.types.ContainerSpec(IMAGE, command=["/bin/sleep"], args=["100000"], stop_grace_period=0)
        self.nodes[via].api.create_service(
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
        hosts = {node["ID"]: node["Description"]["Hostname"] for node in api.nodes()}
        tasks = api.tasks(filters={"service": name, "desired-state": "running"})
        return [hosts.get(task.get("NodeID"), "") for task in tasks if task["Status"]["State"] == "running"]

    def containers(self) -> int:
        return sum(len(node.api.containers(quiet=True)) for node in self.nodes)

    def hostname(self, index: int) -> str:
        return self.nodes[index].name

    def kill(self, index: int) -> None:
        self.nodes[index].kill()

    def answers(self, via: int) -> bool:
        try:
            return bool(self.nodes[via].api.nodes())
        except (APIError, OSError):
            return False

    def rss_mib(self, index: int) -> float:
        return self.nodes[index].rss_mib()

    def down(self) -> None:
        for node in self.nodes:
            if node.process.poll() is None:
                for container in node.api.containers(quiet=True):
                    node.api.kill(container["Id"])
                node.process.terminate()
        for node in self.nodes:
            try:
                node.process.wait(10)
            except subprocess.TimeoutExpired:
                node.kill()
        # A killed dockerd leaves shims (our folder in their command line) and containers (in their mounts).
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if str(self.root) in (entry / "cmdline").read_text() + (entry / "mountinfo").read_text():
                        os.kill(int(entry.name), signal.SIGKILL)
                except OSError:
                    continue
        until(lambda: not any(ip("netns", "pids", node.name, check=False) for node in self.nodes), 5)
        for node in self.nodes:
            ip("netns", "del", node.name, check=False)
        ip("link", "del", BRIDGE, check=False)
        for _ in range(20):
            shutil.rmtree(self.root, ignore_errors=True)
            if not self.root.exists():
                return
            time.sleep(0.1)
