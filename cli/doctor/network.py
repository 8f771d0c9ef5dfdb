"""What `network doctor` makes of what nodes have found: ways between them, tunnels, networks, names, clocks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from flota.cli.doctor.finding import Finding, failure, ok, warning
from flota.v1.checks_pb2 import CheckedWay, NetworkReport
from flota.v1.control_pb2 import NetworkUse
from flota.v1.objects_pb2 import Node, Task
from flota.v1.types_pb2 import NodeState, TaskState

# WireGuard greets every 25 s here and makes new session keys every two minutes: older than that, it does not work.
_OLD_HANDSHAKE = 200
_NEARLY_FULL = 0.9
# Seconds. Certificates and logs can do with so much.
_SKEW = 2.0
_ARROW = "→"


@dataclass(frozen=True)
class Names:
    """What people call things, by id (`nodes`, `networks`) or by the address of VXLAN."""

    nodes: Mapping[str, str]
    networks: Mapping[str, str]
    addresses: Mapping[str, str]

    def node(self, node_id: str) -> str:
        """A node's hostname."""
        return self.nodes.get(node_id, node_id)


def ways(reports: Iterable[NetworkReport], names: Names) -> Iterator[Finding]:
    """How each node reaches each other one, under all networks. What works both ways is one line."""
    found = {(report.node_id, way.node_id): way for report in reports for way in report.ways}
    told: set[tuple[str, str]] = set()
    for (here, there), way in found.items():
        back = found.get((there, here))
        if (there, here) in told:
            continue
        if back is not None and _works(way) and _works(back):
            told.add((here, there))
            slower = max(way.round_trip_seconds, back.round_trip_seconds) * 1e3
            area = f"{names.node(here)} ↔ {names.node(there)}"
            yield ok(area, f"both ways within {slower:.1f} ms, {min(way.mtu, back.mtu)} bytes in one packet")
        else:
            yield from _way(f"{names.node(here)} {_ARROW} {names.node(there)}", way)


def _works(way: CheckedWay) -> bool:
    return bool(way.round_trip_seconds) and way.passes >= way.mtu and not way.rejected_ports and not way.error


def _way(area: str, way: CheckedWay) -> Iterator[Finding]:
    if way.error:
        yield failure(area, f"{way.address}: {way.error}", "the worker must be root on its node")
        return
    if not way.round_trip_seconds:
        yield failure(area, f"{way.address} does not answer", "is the machine up? is there a firewall?")
        return
    if way.passes < way.mtu:
        yield failure(
            area,
            f"packets of more than {way.passes} bytes are lost on the way to {way.address}, which takes {way.mtu}",
            f"set the MTU of the interfaces at both ends to {way.passes}, and make the networks anew",
        )
    else:
        took = way.round_trip_seconds * 1e3
        yield ok(area, f"{way.address} answers within {took:.1f} ms, {way.mtu} bytes in one packet")
    for port in way.rejected_ports:
        yield failure(area, f"UDP {port} is rejected on the way to {way.address}", f"let UDP {port} through")


def tunnels(reports: Iterable[NetworkReport], names: Names) -> Iterator[Finding]:
    """WireGuard between nodes that share encrypted networks."""
    for report in reports:
        for tunnel in report.tunnels:
            area = f"tunnel {names.node(report.node_id)} {_ARROW} {names.addresses.get(tunnel.address, tunnel.address)}"
            age = tunnel.handshake_age_seconds
            if 0 <= age <= _OLD_HANDSHAKE:
                yield ok(area, f"WireGuard spoke {age:.0f} s ago")
                continue
            since = "ever" if age < 0 else f"for {age:.0f} s"
            listens = ", ".join(map(str, tunnel.ports))
            yield failure(
                area,
                f"no handshake of WireGuard {since}",
                f"let UDP 51820 and 51821 through to {tunnel.address} (it listens at {listens})",
            )


def paths(reports: Iterable[NetworkReport], names: Names) -> Iterator[Finding]:
    """Whether tasks reach each other over their networks: one of each node on each."""
    fine: dict[str, int] = {}
    for report in reports:
        for path in report.paths:
            network = names.networks.get(path.network_id, path.network_id)
            fine.setdefault(network, 0)
            if path.round_trip_seconds:
                fine[network] += 1
                continue
            yield failure(
                f"network {network}",
                f"from {names.node(report.node_id)}, {path.address} on {names.node(path.node_id)} does not answer",
                "if the nodes reach each other: let UDP 4789 through, or 51820 and 51821 if the network is encrypted",
            )
    for network, count in sorted(fine.items()):
        if count:
            yield ok(f"network {network}", f"tasks reach each other over {count} ways between nodes")


def addresses(use: Iterable[NetworkUse], names: Names) -> Iterator[Finding]:
    """Networks that are full, or nearly."""
    for one in use:
        area = f"network {names.networks.get(one.network_id, one.network_id)}"
        if not one.size:
            yield warning(area, "it has no addresses yet", "is there a leader? see flota node ls")
        elif one.used >= one.size:
            yield failure(area, f"all {one.size} addresses are given out", "put services on a larger network")
        elif one.used >= _NEARLY_FULL * one.size:
            yield warning(area, f"{one.used} of {one.size} addresses are given out", "a larger subnet will be needed")
        else:
            yield ok(area, f"{one.used} of {one.size} addresses are given out")


def clocks(reports: Iterable[NetworkReport], names: Names) -> Iterator[Finding]:
    """Each node's clock beside the leader's."""
    checked = list(reports)
    ahead = {names.node(report.node_id): report.clock_ahead_seconds for report in checked}
    wrong = {name: seconds for name, seconds in sorted(ahead.items()) if abs(seconds) > _SKEW}
    for name, seconds in wrong.items():
        skew = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the leader"
        yield warning("clocks", f"node {name} is {skew}", "keep clocks right: chrony, NTP")
    if checked and not wrong:
        yield ok("clocks", f"{len(checked)} nodes agree to {_SKEW:g} s")


def expected(tasks: Iterable[Task], own: Task) -> set[str]:
    """The addresses of the tasks of `own`'s service that are ready, on its first network."""
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
    }


def names_right(reports: Iterable[NetworkReport], tasks: Iterable[Task], names: Names) -> Iterator[Finding]:
    """Whether tasks are told what they ought to be of their own service's tasks, on every node."""
    known = {task.id: task for task in tasks}
    right: dict[str, int] = {}
    for report in reports:
        for name in report.names:
            task = known.get(name.task_id)
            if task is None or not task.networks or task.status.state != TaskState.TASK_STATE_RUNNING:
                continue
            service, node = task.service_annotations.name, names.node(report.node_id)
            wanted = expected(known.values(), task)
            if name.error:
                yield failure(
                    f"names of {service}",
                    f"its task {task.id[:12]} on {node} cannot ask its DNS server: {name.error}",
                    "see the worker's log there",
                )
            elif set(name.addresses) != wanted:
                shown, meant = (", ".join(sorted(one)) or "nobody" for one in (name.addresses, wanted))
                yield failure(
                    f"names of {service}",
                    f"tasks.{service} leads to {shown} on {node}, and should to {meant}",
                    "has the worker there a session? flota doctor",
                )
            else:
                right[service] = right.get(service, 0) + 1
    for service, count in sorted(right.items()):
        yield ok(f"names of {service}", f"tasks.{service} is right on {count} {'node' if count == 1 else 'nodes'}")


def unasked(nodes: Iterable[Node], reports: Iterable[NetworkReport], names: Names) -> Iterator[Finding]:
    """Nodes that could not look."""
    for node in nodes:
        if node.status.state == NodeState.NODE_STATE_DOWN:
            yield warning(f"node {names.node(node.id)}", "it is down: not looked at", "see flota node ls")
    for report in reports:
        if report.error:
            yield failure(
                f"node {names.node(report.node_id)}", f"it could not look: {report.error}", "see flota node ls"
            )


def encryption(nodes: Iterable[Node], encrypted: bool, names: Names) -> Iterator[Finding]:
    """Nodes that have no WireGuard, when there are encrypted networks."""
    without = sorted(names.node(node.id) for node in nodes if encrypted and not node.description.wireguard)
    if without:
        yield failure(
            "encryption",
            f"there is no WireGuard on {', '.join(without)}: tasks on encrypted networks cannot run there",
            "install wireguard-tools, and wireguard-go if the kernel has none",
        )
