"""Checks of the node and its swarm: what the daemon, and on managers the cluster, says of itself."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flota.cli.doctor.finding import Finding, failure, ok, warning

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.local_pb2 import InfoResponse
    from flota.v1.objects_pb2 import Node, Task

_REACH_SECONDS = 3.0
_SKEW_SECONDS = 2.0
# A certificate is renewed between 50 % and 80 % of its life; one that is older was not.
_LATE = 0.9


def node(info: InfoResponse, client_version: str) -> Iterator[Finding]:
    """The daemon, and this node's place in the swarm."""
    from flota.v1.local_pb2 import InfoResponse

    if info.version != client_version:
        yield warning(
            "daemon",
            f"it is version {info.version}, this command {client_version}",
            "restart it: systemctl restart flota",
        )
    else:
        yield ok("daemon", f"version {info.version}, {info.runtime} {info.runtime_version}".rstrip())
    match info.state:
        case InfoResponse.STATE_ACTIVE if info.error:
            yield failure("swarm", info.error, "flota service logs and journalctl -u flota say more")
        case InfoResponse.STATE_ACTIVE:
            yield ok("swarm", f"this node, {info.node_id}, is part of a swarm")
        case InfoResponse.STATE_INACTIVE:
            yield ok("swarm", "this node is part of none (flota swarm init, flota swarm join)")
        case InfoResponse.STATE_LOCKED:
            yield failure("swarm", "this manager is locked", "flota swarm unlock")
        case _:
            yield failure("swarm", info.error or "this node is on its way", "journalctl -u flota says more")


def certificate(directory: Path, now: datetime.datetime) -> Iterator[Finding]:
    """This node's certificate is renewed in time."""
    from flota.rpc.identity import Identity

    try:
        mine = Identity(directory).certificate
    except (OSError, ValueError):
        return
    begun, end = mine.not_valid_before_utc, mine.not_valid_after_utc
    share = (now - begun) / (end - begun)
    told = f"valid until {end:%Y-%m-%d %H:%M} UTC"
    if share >= 1:
        yield failure("certificate", f"it was {told}", "flota swarm leave, then join anew; is the clock right?")
    elif share < 0:
        yield failure("certificate", f"valid from {begun:%Y-%m-%d %H:%M} UTC only", "set the clock")
    elif share > _LATE:
        yield warning("certificate", f"{told} and not renewed", "does this node reach a manager? Is there a leader?")
    else:
        yield ok("certificate", told)


async def managers_reached(addresses: Iterable[str]) -> list[Finding]:
    """Every manager can be reached from here."""
    listed = sorted(set(addresses))

    async def reach(address: str) -> Finding | None:
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(_REACH_SECONDS):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, TimeoutError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no answer"
            return failure(
                "managers", f"{address} cannot be reached: {why}", "does it run? Is 2377/tcp open between you?"
            )
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return None

    found = [each for each in await asyncio.gather(*map(reach, listed)) if each is not None]
    return found or ([ok("managers", f"reached: {', '.join(listed)}")] if listed else [])


async def cluster(session: Session) -> list[Finding]:
    """What only managers know. Raises grpc's error when there is no leader."""
    from flota.v1.control_pb2 import ListNodesRequest, ListTasksRequest

    nodes = list((await session.control.ListNodes(ListNodesRequest())).nodes)
    tasks = list((await session.control.ListTasks(ListTasksRequest())).tasks)
    names = {each.id: each.description.hostname or each.id for each in nodes}
    return [*nodes_found(nodes), *clocks(tasks, names)]


def nodes_found(nodes: list[Node]) -> Iterator[Finding]:
    """Nodes that are down, and how many managers the swarm can lose."""
    from flota.v1.objects_pb2 import ManagerStatus
    from flota.v1.types_pb2 import NodeRole, NodeState

    reachable = ManagerStatus.REACHABILITY_REACHABLE
    down = [each.description.hostname or each.id for each in nodes if each.status.state != NodeState.NODE_STATE_READY]
    if down:
        yield warning("nodes", f"not ready: {', '.join(sorted(down))}", "flota node inspect NODE says since when")
    else:
        yield ok("nodes", f"{len(nodes)} ready")
    managers = [each for each in nodes if each.role == NodeRole.NODE_ROLE_MANAGER]
    for each in managers:
        if trouble := each.manager_status.trouble:
            name = each.description.hostname or each.id
            yield failure("managers", f"{name} takes no part, its disk refuses: {trouble}", "free or replace that disk")
    reached = sum(1 for each in managers if each.manager_status.reachability == reachable)
    spare = reached - (len(managers) // 2 + 1)
    told = f"{reached} of {len(managers)} managers reachable"
    if spare <= 0 and len(managers) > 1:
        yield failure("managers", f"{told}: none may be lost", "bring one back, or promote another node")
    elif len(managers) > 1 and len(managers) % 2 == 0:
        yield warning("managers", f"{told}; an even number is no safer than one less", "promote or demote one")
    elif len(managers) == 1:
        yield warning("managers", "one: without it nothing can be changed", "flota node promote two more nodes")
    else:
        yield ok("managers", f"{told}; {spare} may be lost")


def clocks(tasks: Iterable[Task], names: Mapping[str, str]) -> Iterator[Finding]:
    """A node's clock beside the leader's: a status bears the node's time, its entry in the store the leader's.

    The entry is made after the status, so the smallest difference over all of a node's tasks is the skew, as nearly as
    it can be known; a negative one is a clock that is ahead.
    """
    smallest: dict[str, float] = {}
    for task in tasks:
        if task.node_id and task.status.timestamp.seconds:
            difference = (task.meta.updated_at.ToNanoseconds() - task.status.timestamp.ToNanoseconds()) / 1e9
            smallest[task.node_id] = min(difference, smallest.get(task.node_id, difference))
    ahead = {names.get(node, node): -value for node, value in smallest.items() if value < -_SKEW_SECONDS}
    for name, seconds in sorted(ahead.items()):
        yield warning("clock", f"node {name} is {seconds:.0f} s ahead of the leader", "keep clocks right: chrony, NTP")
