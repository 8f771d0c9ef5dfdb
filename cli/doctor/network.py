"""What `network doctor` looks at: the ways from this node to all others, tunnels, names, addresses.

The judging functions are pure; `look` asks the network, from threads, all nodes at the same time.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flota.cli.doctor import probes
from flota.cli.doctor.finding import Finding, failure, ok, warning
from flota.v1.control_pb2 import NetworkUse
from flota.v1.objects_pb2 import Node, Task
from flota.v1.types_pb2 import NodeState, TaskState

# WireGuard greets every 25 s here and makes new session keys every two minutes: older than that, it does not work.
_OLD_HANDSHAKE = 200
_NEARLY_FULL = 0.9
_LIMIT = 10


@dataclass(frozen=True)
class Way:
    """What was found out about the way to another node. `round_trip` in seconds; None: no answer."""

    node: str
    address: str
    round_trip: float | None
    mtu: int = 0
    passes: int = 0
    rejected: tuple[int, ...] = ()


def look(node: Node, ports: Iterable[int]) -> Way:
    """Ask the way to a node. Blocking."""
    name, address = node.description.hostname, node.description.data_path_address or node.status.address
    took = probes.round_trip(address)
    if took is None:
        return Way(name, address, None)
    mtu = probes.interface_mtu(address)
    passes = mtu if probes.round_trip(address, mtu) is not None else probes.largest(address, mtu)
    return Way(name, address, took, mtu, passes, tuple(port for port in ports if probes.rejected(address, port)))


def ways(found: Iterable[Way]) -> Iterator[Finding]:
    """What the ways are like."""
    for way in found:
        area = f"way to {way.node}"
        if way.round_trip is None:
            yield failure(area, f"{way.address} does not answer", "is the machine up? is there a firewall?")
            continue
        if way.passes < way.mtu:
            yield failure(
                area,
                f"packets of more than {way.passes} bytes are lost on the way to {way.address}, which this machine "
                f"takes for {way.mtu}",
                f"set the MTU of the interface to {way.passes}, here and there, and make the networks anew",
            )
        else:
            yield ok(area, f"{way.address} answers within {way.round_trip * 1e3:.1f} ms, {way.mtu} bytes in one packet")
        for port in way.rejected:
            yield failure(area, f"UDP {port} is rejected on the way to {way.address}", f"let UDP {port} through")


def tunnels(dump: str, names: Mapping[str, str], now: float) -> Iterator[Finding]:
    """What `wg show all dump` says of the nodes that this one shares encrypted networks with."""
    newest: dict[str, int] = {}
    ports: dict[str, set[str]] = {}
    for line in dump.splitlines():
        words = line.split("\t")
        if len(words) != 9:
            continue
        address, _, port = words[3].rpartition(":")
        newest[address.strip("[]")] = max(newest.get(address.strip("[]"), 0), int(words[5]))
        ports.setdefault(address.strip("[]"), set()).add(port)
    for address, handshake in newest.items():
        area = f"tunnel to {names.get(address, address)}"
        if now - handshake > _OLD_HANDSHAKE:
            since = "ever" if not handshake else f"for {now - handshake:.0f} s"
            yield failure(
                area,
                f"no handshake of WireGuard {since}",
                f"let UDP 51820 and 51821 through to {address} (it listens at {', '.join(sorted(ports[address]))})",
            )
        else:
            yield ok(area, f"WireGuard spoke {now - handshake:.0f} s ago")


def addresses(use: Iterable[NetworkUse], names: Mapping[str, str]) -> Iterator[Finding]:
    """Networks that are full, or nearly."""
    for one in use:
        area = f"network {names.get(one.network_id, one.network_id)}"
        if not one.size:
            yield warning(area, "it has no addresses yet", "is there a leader? see flota node ls")
        elif one.used >= one.size:
            yield failure(area, f"all {one.size} addresses are given out", "put services on a larger network")
        elif one.used >= _NEARLY_FULL * one.size:
            yield warning(area, f"{one.used} of {one.size} addresses are given out", "a larger subnet will be needed")
        else:
            yield ok(area, f"{one.used} of {one.size} addresses are given out")


def expected(tasks: Iterable[Task], own: Task) -> set[str]:
    """The IPv4 addresses of the tasks of `own`'s service that are ready, on its first network."""
    network = own.networks[0].network_id
    return {
        address.partition("/")[0]
        for task in tasks
        if task.service_id == own.service_id
        and task.status.state == TaskState.TASK_STATE_RUNNING
        and task.desired_state <= TaskState.TASK_STATE_COMPLETE
        and not task.status.container.unhealthy
        for one in task.networks
        if one.network_id == network
        for address in one.addresses
        if ":" not in address
    }


# Asks the DNS server of a task, without a library: it may be any Python.
_ASK = """
import json, socket, struct, sys
name = sys.argv[1]
q = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
q += b"\\0" + struct.pack("!HH", 1, 1)
s = socket.create_connection(("127.0.0.11", 53), 3)
s.sendall(struct.pack("!H", len(q)) + q)
f = s.makefile("rb"); n, = struct.unpack("!H", f.read(2)); d = f.read(n)
count, = struct.unpack_from("!H", d, 6); at = len(q); found = []
for _ in range(count):
    kind, _, _, length = struct.unpack_from("!HHIH", d, at + 2); at += 12
    if kind == 1: found.append(socket.inet_ntoa(d[at:at + 4]))
    at += length
print(json.dumps(found))
"""


def ask(run_directory: Path, task: Task) -> set[str] | str:
    """What a task of this node is told of its own service's tasks; words when it cannot ask. Blocking."""
    name = f"tasks.{task.service_annotations.name}"
    netns = run_directory / "netns" / task.id
    try:
        done = subprocess.run(
            ["nsenter", f"--net={netns}", sys.executable, "-I", "-c", _ASK, name],
            capture_output=True, text=True, timeout=_LIMIT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return set(json.loads(done.stdout))


def names_right(task: Task, answer: set[str] | str, wanted: set[str]) -> Finding:
    """Whether an answer is what it ought to be."""
    service = task.service_annotations.name
    area = f"names of {service}"
    if isinstance(answer, str):
        return failure(area, f"its task {task.id[:12]} cannot ask its DNS server: {answer}", "see the worker's log")
    if answer != wanted:
        shown, right = (", ".join(sorted(one)) or "nobody" for one in (answer, wanted))
        return failure(
            area,
            f"tasks.{service} leads to {shown} here, and should to {right}",
            "has the worker a session? flota doctor",
        )
    return ok(area, f"tasks.{service} leads to its {len(wanted)} ready tasks")


def others(nodes: Iterable[Node], own_id: str) -> Iterator[Node | Finding]:
    """The nodes to look at, and what can be said of the others."""
    for node in nodes:
        if node.id == own_id:
            continue
        if node.status.state == NodeState.NODE_STATE_DOWN:
            yield warning(f"way to {node.description.hostname}", "the node is down: not looked at", "see flota node ls")
        else:
            yield node


async def checked(function: Callable[..., object], *arguments: object) -> object:
    """A blocking look on a thread; an OSError becomes a finding."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except OSError as error:
        return failure("machine", f"cannot look: {error}", "network doctor needs to be root on a node")


def read_tunnels(run_directory: Path) -> str:
    """`wg show all dump` where this node's tunnels are; "" if it has none. Blocking."""
    netns = run_directory / "tunnels" / "netns"
    if not netns.exists():
        return ""
    done = subprocess.run(
        ["nsenter", f"--net={netns}", "wg", "show", "all", "dump"],
        capture_output=True, text=True, timeout=_LIMIT, check=False,
    )  # fmt: skip
    return done.stdout


def now() -> float:
    """Seconds since the epoch, as WireGuard counts them."""
    return time.time()
