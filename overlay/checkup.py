"""What this node finds when it looks around: ways to other nodes, tunnels, tasks elsewhere, names. Changes nothing.

Asked by the leader for `network doctor`, which judges it (cli/doctor/network.py). Everything blocking is on threads,
and what is asked within a task's namespace in a process of its own: the worker's threads stay where they are.
"""

import asyncio
import functools
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flota.overlay import probes
from flota.overlay.addresses import task_namespace, version_of
from flota.overlay.model import Model
from flota.overlay.tunnel_keys import PORTS
from flota.v1.checks_pb2 import CheckedName, CheckedNode, CheckedPath, CheckedTunnel, CheckedWay, NetworkReport
from flota.v1.objects_pb2 import Task

# Services whose names are asked for, and ways that are looked at together.
_MOST_NAMES = 20
_THREADS = 32
_LIMIT = 20.0


@dataclass(frozen=True)
class View:
    """What a node's Network knows: `tasks` are those attached here, `port` is VXLAN's."""

    run_directory: Path
    node_id: str
    port: int
    model: Model
    tasks: tuple[Task, ...]


class Checkup:
    """One look around."""

    def __init__(self, view: View) -> None:
        self._view = view

    async def report(self, nodes: Iterable[CheckedNode]) -> NetworkReport:
        """Look at everything, with these other nodes."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="checkup") as pool:
            on_thread = functools.partial(loop.run_in_executor, pool)
            ways = [on_thread(look, node, (self._view.port, *PORTS)) for node in nodes]
            inside = [on_thread(self._look_inside, task, paths) for task, paths in self._vantage_points()]
            tunnels = on_thread(read_tunnels, self._view.run_directory)
            report = NetworkReport(node_id=self._view.node_id, ways=await asyncio.gather(*ways))
            for name, paths in await asyncio.gather(*inside):
                report.names.append(name)
                report.paths.extend(paths)
            report.tunnels.extend(tunnels_of(await tunnels, time.time()))
        report.now.GetCurrentTime()
        return report

    def _vantage_points(self) -> list[tuple[Task, list[CheckedPath]]]:
        """A task of each service here, and one on each network, with a task of every other node there to ask."""
        seen: set[str] = set()
        networks: set[str] = set()
        chosen: list[tuple[Task, list[CheckedPath]]] = []
        for task in self._view.tasks:
            new = {one.network_id for one in task.networks} - networks
            if task.networks and (new or task.service_id not in seen) and len(chosen) < _MOST_NAMES:
                seen.add(task.service_id)
                networks |= new
                chosen.append((task, [path for network_id in sorted(new) for path in self._elsewhere(network_id)]))
        return chosen

    def _elsewhere(self, network_id: str) -> list[CheckedPath]:
        """One ready task of each other node on a network, at an address of each IP version."""
        found: dict[tuple[str, int], CheckedPath] = {}
        for peer in self._view.model.peers(network_id):
            if not peer.ready or peer.node_id == self._view.node_id:
                continue
            for address in (one.partition("/")[0] for one in peer.addresses):
                path = CheckedPath(network_id=network_id, node_id=peer.node_id, address=address)
                found.setdefault((peer.node_id, version_of(address)), path)
        return list(found.values())

    def _look_inside(self, task: Task, paths: list[CheckedPath]) -> tuple[CheckedName, list[CheckedPath]]:
        """Ask from within a task's namespace."""
        netns = task_namespace(self._view.run_directory, task.id)
        question = f"tasks.{task.service_annotations.name}"
        command = ["nsenter", f"--net={netns}", sys.executable, "-m", "flota.overlay.looking_inside", question]
        found = CheckedName(task_id=task.id)
        try:
            done = subprocess.run(
                [*command, *(path.address for path in paths)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT, check=False,
            )  # fmt: skip
            answer = json.loads(done.stdout) if done.returncode == 0 else {}
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return CheckedName(task_id=task.id, error=str(error)), []
        if not answer:
            said = done.stderr.strip().splitlines()
            return CheckedName(task_id=task.id, error=said[-1] if said else "no answer"), []
        found.addresses.extend(answer["addresses"])
        found.error = answer["error"]
        for path, took in zip(paths, answer["round_trips"], strict=True):
            path.round_trip_seconds = took or 0.0
        return found, paths


def look(node: CheckedNode, ports: Iterable[int]) -> CheckedWay:
    """Ask the way to a node, and about these UDP ports of it. Blocking."""
    way = CheckedWay(node_id=node.id, address=node.address)
    try:
        took = probes.round_trip(node.address)
        if took is not None:
            way.round_trip_seconds = took
            way.mtu = probes.interface_mtu(node.address)
            whole = probes.round_trip(node.address, way.mtu) is not None
            way.passes = way.mtu if whole else probes.largest(node.address, way.mtu)
            way.rejected_ports.extend(one for one in ports if probes.rejected(node.address, one))
    except OSError as error:
        way.error = str(error)
    return way


def read_tunnels(run_directory: Path) -> str:
    """`wg show all dump` where this node's tunnels are; "" if it has none. Blocking."""
    netns = run_directory / "tunnels" / "netns"
    if not netns.exists():
        return ""
    try:
        done = subprocess.run(
            ["nsenter", f"--net={netns}", "wg", "show", "all", "dump"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def tunnels_of(dump: str, now: float) -> list[CheckedTunnel]:
    """The peers in what `wg show all dump` says. A node with two keys is one peer. `now`: seconds since the epoch."""
    newest: dict[str, int] = {}
    ports: dict[str, set[int]] = {}
    for line in dump.splitlines():
        words = line.split("\t")
        if len(words) != 9 or words[3] == "(none)":
            continue
        host, _, port = words[3].rpartition(":")
        address = host.strip("[]")
        newest[address] = max(newest.get(address, 0), int(words[5]))
        ports.setdefault(address, set()).add(int(port))
    return [
        CheckedTunnel(address=address, ports=sorted(ports[address]), handshake_age_seconds=now - last if last else -1.0)
        for address, last in sorted(newest.items())
    ]
