"""A task's namespace: interfaces, addresses, routes. What is wanted is a pure plan; `build` makes it real.

What was attached is remembered in RUN/overlay/TASK (a Task message with just what names, networks and ports need), so
that a worker that starts again can serve the task before it has spoken to a manager; networks that are held without a
task in RUN/overlay/.held.

Blocking: `build`, `rewire`, `reopen` and `demolish` run on the overlay's kernel thread.
"""

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from flota.overlay import namespaces, netlink
from flota.overlay.addresses import interface, task_namespace, version_of
from flota.overlay.dns.server import Sockets, open_sockets
from flota.overlay.errors import BadAddress, UnknownNetwork
from flota.overlay.links import address_on, default_route, link_up, prefix_route
from flota.overlay.proxy_protocol import proxied
from flota.overlay.segment import Segment
from flota.overlay.underlay import Underlay, gateways, network_mtu, other_subnets, versions
from flota.v1.mac_addresses import mac_of
from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import PortConfig

_HELD = ".held"


@dataclass(frozen=True)
class InterfacePlan:
    """One interface of a task. `gateways` only where the default routes lead out through this network; `others` are
    (subnet, source) of further subnets on the same link.
    """

    network_id: str
    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    others: tuple[tuple[str, str], ...] = ()


def plan(task: Task, networks: Mapping[str, Network], underlay: Underlay) -> tuple[InterfacePlan, ...]:
    """Interfaces eth0, eth1, … in the order of the task's networks. Raises UnknownNetwork, BadAddress.

    The ingress network gets the default routes, or else the first with a way out (one that is not internal): whoever
    comes in through a published port is answered the way he came.
    """
    plans: list[InterfacePlan] = []
    ingress = (one for one in task.networks if one.network_id in networks and networks[one.network_id].spec.ingress)
    taken = {6 if ":" in address else 4 for one in ingress for address in one.addresses}
    routed: set[int] = set()
    for number, attachment in enumerate(task.networks):
        network = networks.get(attachment.network_id)
        if network is None:
            raise UnknownNetwork(attachment.network_id)
        if not attachment.addresses:
            raise BadAddress(f"task.networks[{number}].addresses", "", "what the allocator gave: one or more addresses")
        if any(other.network_id == network.id for other in plans):
            raise BadAddress(f"task.networks[{number}].network_id", network.id, "a network the task is not on already")
        here = versions(network, underlay)
        given = [interface(f"task.networks[{number}].addresses", address) for address in attachment.addresses]
        addresses = [address for address in given if address.version in here]
        ways_out: list[str] = []
        if not network.spec.internal:
            leads_out = {address.version for address in addresses} - (set() if network.spec.ingress else routed | taken)
            found = {gateway.version: str(gateway.ip) for gateway in reversed(gateways(network))}
            ways_out = [found[version] for version in sorted(leads_out & found.keys())]
            routed |= leads_out
        plans.append(
            InterfacePlan(
                network_id=network.id,
                name=f"eth{number}",
                mac=mac_of(str(addresses[0])),
                mtu=network_mtu(network, underlay),
                addresses=tuple(map(str, addresses)),
                gateways=tuple(ways_out),
                others=tuple(other_subnets(network, addresses)),
            )
        )
    return tuple(plans)


def reached_from_outside(plans: Sequence[InterfacePlan]) -> frozenset[int]:
    """IP versions by which published ports can lead to the task: by which it could answer."""
    return frozenset(version_of(gateway) for one in plans for gateway in one.gateways)


def leads_out(plans: Sequence[InterfacePlan]) -> bool:
    """Whether the task has a way out into the world."""
    return any(one.gateways for one in plans)


def build(
    task_id: str,
    plans: Sequence[InterfacePlan],
    segments: Mapping[str, Segment],
    run_directory: Path,
    underlay: Underlay,
) -> Sockets:
    """Make the namespace and everything in it; returns the sockets of its DNS server. Undone if any of it fails."""
    path = task_namespace(run_directory, task_id)
    # What an attempt before a crash left, or a detach a moment ago, would be in the way.
    demolish(task_id, [segments[one.network_id] for one in plans], run_directory, wait=True)
    try:
        with namespaces.created(path, underlay.home):
            _set_sysctls(plans)
            with netlink.RouteSocket() as routes:
                routes.send([link_up(1, "lo")])
                _plug(task_id, plans, segments)
                for one in plans:
                    _configure(routes, one)
            return open_sockets(leads_out=leads_out(plans))
    except BaseException:
        demolish(task_id, [segments[one.network_id] for one in plans], run_directory, wait=True)
        raise


def rewire(
    task_id: str,
    plans: Sequence[InterfacePlan],
    new: Container[str],
    segments: Mapping[str, Segment],
    run_directory: Path,
    underlay: Underlay,
) -> None:
    """Give a namespace that is there interfaces on the networks `new`, and lead its default routes as `plans` say.

    Programs in it run on: interfaces that are there keep their names, a new one gets the first that is free.
    """
    added = [one for one in plans if one.network_id in new]
    for one in added:
        # What an attempt before a crash left would be in the way.
        segments[one.network_id].unplug(task_id, wait=True)
    with namespaces.entered(task_namespace(run_directory, task_id), underlay.home):
        if any(":" in address for one in added for address in one.addresses):
            namespaces.set_sysctl("ipv6.conf.default.disable_ipv6", "0")
        with netlink.RouteSocket() as routes:
            for one in added:
                links = routes.links()
                named = replace(one, name=next(f"eth{n}" for n in count() if f"eth{n}" not in links), gateways=())
                _plug(task_id, [named], segments)
                _configure(routes, named)
            _lead_out(routes, plans)


def reopen(task_id: str, run_directory: Path, underlay: Underlay) -> Sockets:
    """DNS sockets in a namespace that an earlier process made."""
    with namespaces.entered(task_namespace(run_directory, task_id), underlay.home):
        return open_sockets(leads_out=namespaces.has_default_route())


def demolish(task_id: str, segments: Sequence[Segment], run_directory: Path, *, wait: bool = False) -> None:
    """Take the task off its networks and give its namespace up; `wait` until the interfaces are gone too.

    No error if any of it is gone already.
    """
    for segment in segments:
        segment.unplug(task_id, wait=wait)
    namespaces.forget(task_namespace(run_directory, task_id))


def memory(task: Task, ports: Iterable[PortConfig]) -> Task:
    """What is remembered of a task. `ports` are those it has on this node, in host mode; those of its spec
    are those with a PROXY header.
    """
    kept = Task(id=task.id, service_id=task.service_id, slot=task.slot, networks=task.networks)
    kept.service_annotations.name = task.service_annotations.name
    kept.spec.container.dns.CopyFrom(task.spec.container.dns)
    kept.endpoint.ports.extend(ports)
    kept.endpoint.spec.ports.extend(proxied(task.endpoint.ports))
    return kept


def remember(kept: Task, run_directory: Path) -> None:
    """Write down what `recall` must know, atomically."""
    _write(_record(run_directory, kept.id), kept.SerializeToString())


def remember_held(network_ids: Iterable[str], run_directory: Path) -> None:
    """Write down which networks are here without a task being on them."""
    held = sorted(network_ids)
    if held:
        _write(_record(run_directory, _HELD), "\n".join(held).encode())
    else:
        _record(run_directory, _HELD).unlink(missing_ok=True)


def recall_held(run_directory: Path) -> set[str]:
    file = _record(run_directory, _HELD)
    return set(file.read_text().split()) if file.exists() else set()


def recall(run_directory: Path) -> dict[str, Task]:
    """Everything remembered whose namespace still is there, by task id."""
    directory = run_directory / "overlay"
    found = {}
    for file in sorted(directory.iterdir()) if directory.is_dir() else []:
        if "." not in file.name and namespaces.kept(task_namespace(run_directory, file.name)):
            found[file.name] = Task.FromString(file.read_bytes())
    return found


def forget(task_id: str, run_directory: Path) -> None:
    """No longer remember a task."""
    _record(run_directory, task_id).unlink(missing_ok=True)


def leftovers(run_directory: Path) -> tuple[set[str], set[str]]:
    """(tasks, networks) that have a name under RUN/netns, or a record under RUN/overlay."""
    tasks: set[str] = set()
    networks: set[str] = set()
    directory = run_directory / "netns"
    for name in os.listdir(directory) if directory.is_dir() else []:
        if name.startswith("net-"):
            networks.add(name.removeprefix("net-"))
        else:
            tasks.add(name)
    directory = run_directory / "overlay"
    for name in os.listdir(directory) if directory.is_dir() else []:
        if not name.startswith("."):
            tasks.add(name.partition(".")[0])
    return tasks, networks


def _set_sysctls(plans: Sequence[InterfacePlan]) -> None:
    with_ipv6 = any(":" in address for one in plans for address in one.addresses)
    # lo keeps its ::1: `default` counts for interfaces that come later.
    namespaces.set_sysctl("ipv6.conf.default.disable_ipv6", "0" if with_ipv6 else "1")
    namespaces.set_sysctl("ipv6.conf.default.accept_dad", "0")
    namespaces.set_sysctl("ipv6.conf.default.accept_ra", "0")
    # There is one way to each address, and nobody to tell of another.
    for which in ("all", "default"):
        namespaces.set_sysctl(f"ipv4.conf.{which}.accept_redirects", "0")
        namespaces.set_sysctl(f"ipv6.conf.{which}.accept_redirects", "0")
    # As Docker has it: a container's user may use low ports and ping.
    namespaces.set_sysctl("ipv4.ip_unprivileged_port_start", "0")
    namespaces.set_sysctl("ipv4.ping_group_range", "0 2147483647")


def _plug(task_id: str, plans: Sequence[InterfacePlan], segments: Mapping[str, Segment]) -> None:
    here = namespaces.current()
    try:
        for one in plans:
            segments[one.network_id].plug(task_id, one.name, one.mac, one.mtu, here)
    finally:
        os.close(here)


def _configure(routes: netlink.RouteSocket, one: InterfacePlan) -> None:
    index = routes.link(one.name) or 0
    messages = [link_up(index, one.name)]
    messages += [address_on(index, address, one.name) for address in one.addresses]
    messages += [prefix_route(index, subnet, source) for subnet, source in one.others]
    messages += [default_route(index, gateway) for gateway in one.gateways]
    routes.send(messages)


def _lead_out(routes: netlink.RouteSocket, plans: Sequence[InterfacePlan]) -> None:
    """Interfaces are found by their addresses: their names depend on what the task was on before."""
    holders = routes.holders()
    ways = [
        (holders.get(address.partition("/")[0]), gateway)
        for one in plans
        for gateway in one.gateways
        for address in one.addresses
        if version_of(address.partition("/")[0]) == version_of(gateway)
    ]
    routes.send(default_route(index, gateway) for index, gateway in ways if index is not None)


def _record(run_directory: Path, task_id: str) -> Path:
    return run_directory / "overlay" / task_id


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.new")
    scratch.write_bytes(content)
    scratch.replace(file)
