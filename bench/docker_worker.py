"""The peer of bench.worker: one real dockerd (Debian's docker.io) on a machine of a lab, alone in a swarm of its own.

Containers are made over the Engine API on an attachable overlay network, as its agent makes those of tasks: what a
manager does before is not counted. Needs root and the Debian packages docker.io and busybox-static.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.docker_swarm import DockerNode, daemon_command, root_file_system
from bench.workload import IMAGE, until
from flota.node.lab import Lab

_NAME = f"k{os.getpid()}"
_NETWORK = "benchnet"
_THREADS = 16


class DockerWorker:
    """`up` first, `down` last."""

    def __init__(self) -> None:
        self._lab: Lab | None = None

    def up(self) -> None:
        """Start dockerd and give it image and network."""
        self._lab = Lab.up(_NAME, 1, 0, swarm=False, command=["/bin/sh", "-c", daemon_command(_NAME)])
        self._node = DockerNode(next(iter(self._lab.nodes.values())))
        if until(self._node.answers, 30) is None:
            raise RuntimeError(f"dockerd did not start: {(self._node.node.disk / 'log').read_text()[-600:]}")
        repository, tag = IMAGE.split(":")
        self.api.import_image_from_data(root_file_system(), repository=repository, tag=tag)
        self.api.init_swarm(advertise_addr=self._node.address)
        self.api.create_network(_NETWORK, driver="overlay", attachable=True)
        # A network is made on the node with its first container.
        self.keep = self.start(1)

    @property
    def api(self) -> Any:
        """docker-py's."""
        return self._node.api

    def start(self, count: int) -> list[str]:
        """Make containers and start them, many at once."""
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda _: self._start(), range(count)))

    def stop(self, containers: list[str]) -> None:
        """Kill and remove them, many at once."""
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda one: self.api.remove_container(one, force=True), containers))

    def rss_mib(self) -> float:
        """Of dockerd and containerd."""
        return sum(self._node.rss_mib().values())

    def beside_mib(self) -> float:
        """Of what each container has beside it (containerd-shim): the private part of it, mean."""
        script = "for p in $(pgrep -f containerd-shim); do cat /proc/$p/smaps_rollup; done"
        return private_mib(self._node.node.exec(["sh", "-c", script]).stdout)

    def down(self) -> None:
        """Remove it all."""
        if self._lab is not None:
            self._node.api.close()
            self._lab.down()

    def _start(self) -> str:
        api = self.api
        made: dict[str, Any] = api.create_container(
            IMAGE,
            command=["/bin/sleep", "100000"],
            networking_config=api.create_networking_config({_NETWORK: api.create_endpoint_config()}),
            host_config=api.create_host_config(network_mode=_NETWORK),
        )
        api.start(made["Id"])
        return str(made["Id"])


def private_mib(smaps: str) -> float:
    """Mean of the private memory of some processes, from their smaps_rollup one after the other."""
    lines = smaps.splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    processes = sum(line.startswith("Rss:") for line in lines)
    return sum(sizes) / 1024 / max(1, processes)


def private_mib_of(process_ids: list[int]) -> float:
    """The same of these processes of this machine."""
    return private_mib("".join(Path(f"/proc/{one}/smaps_rollup").read_text() for one in process_ids))
