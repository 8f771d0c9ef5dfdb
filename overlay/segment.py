"""One cluster network on this node: its own namespace with a bridge, a VXLAN device and a way out.

    task's namespace            network's namespace (RUN/netns/net-ID)              node's namespace
    eth0 ── veth ──────────────── tTASK ─┐
                                        br0 (gateway's address) ── out0 ── veth ──── fl-ID ── masquerade
                                 vxlan0 ─┘    (its UDP socket stays in the node's namespace)

A namespace per network keeps networks apart by construction: no routing table knows two of them, subnets may overlap,
and the node's own addresses are untouched. The gateway's address is the same on every node; ARP for it never crosses
VXLAN, because VXLAN has no entry for broadcast. The bridge's MAC is the node's own.

On the ingress network connections come in through any node: `entries` of forwarding.py become a mark per node and a
routing table per mark, so that replies go back through the node that a connection came from and that translated its
address. That is how a task sees the client's own address.

Blocking: everything here runs on the overlay's kernel thread. What the entries are is forwarding.py's business.
"""

import ipaddress
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from flota.overlay import firewall, libnftables, namespaces, netlink
from flota.overlay.addresses import (
    exit_addresses,
    exit_name,
    exit_number,
    hop_of_mark,
    network_namespace,
    node_hop,
    node_mac,
    node_mark,
    port_name,
    version_of,
)
from flota.overlay.forwarding import Forwarding, ForwardingChange, difference
from flota.overlay.links import (
    UP,
    address_on,
    default_route,
    family,
    kind,
    link_down,
    link_removal,
    link_up,
    loopback_route,
    mark_rule,
    mark_rule_removal,
    new_link,
    veth,
)
from flota.overlay.netlink import Message, RouteSocket
from flota.overlay.underlay import Underlay, gateways, network_mtu, versions
from flota.v1.network_options import is_local
from flota.v1.objects_pb2 import Network

_PERMANENT, _STATIC = 0x80, 0x42  # NUD_PERMANENT; NUD_NOARP | NUD_REACHABLE
_SELF, _MASTER = 0x02, 0x04  # NTF_SELF: VXLAN's own table; NTF_MASTER: the bridge's


class Segment:
    """A network's namespace; without a VXLAN device if it is this node's alone.

    Made by `create` or found by `find`; `remove` ends it.
    """

    def __init__(self, network_id: str, path: Path, underlay: Underlay, routes: RouteSocket) -> None:
        self.network_id = network_id
        self.exit_number: int | None = None
        self._versions: tuple[int, ...] = (4,)
        self._path = path
        self._underlay = underlay
        self._routes = routes
        self._bridge = 0
        self._vxlan = 0
        self._programmed = Forwarding()

    @classmethod
    def create(
        cls, network: Network, run_directory: Path, underlay: Underlay, number: int, tunnels: Path | None = None
    ) -> "Segment":
        """Make the namespace with everything in it; an encrypted network's VXLAN goes through the namespace `tunnels`.

        Raises KernelRefused or BadAddress; nothing is left then.
        """
        path = network_namespace(run_directory, network.id)
        cls.sweep(network.id, run_directory, underlay)
        with RouteSocket() as node:
            node.send([link_removal(exit_name(network.id))])
        with namespaces.created(path, underlay.home):
            routes = RouteSocket()
            try:
                segment = cls(network.id, path, underlay, routes)
                segment._fill(network)
            except BaseException:
                routes.close()
                raise
        try:
            if not is_local(network.spec):
                segment._join_underlay(network, tunnels)
            if not network.spec.internal:
                segment._make_exit(number)
        except BaseException:
            segment.remove()
            raise
        return segment

    @classmethod
    def find(cls, network_id: str, run_directory: Path, underlay: Underlay, *, local: bool) -> "Segment | None":
        """Take over what an earlier process made; None if it is not whole. `local`: it is this node's alone."""
        path = network_namespace(run_directory, network_id)
        if not namespaces.kept(path):
            return None
        with namespaces.entered(path, underlay.home):
            routes = RouteSocket()
        segment = cls(network_id, path, underlay, routes)
        links = routes.links()
        if "br0" not in links or ("vxlan0" not in links and not local):
            routes.close()
            return None
        segment._bridge, segment._vxlan = links["br0"], links.get("vxlan0", 0)
        if "out0" in links:
            segment._find_exit(routes.addresses(links["out0"]))
            with RouteSocket() as node:
                segment._open_loopback(node)
        segment._programmed = segment._read()
        return segment

    @property
    def ways_in(self) -> tuple[str, ...]:
        """The network's end of its way out, an address of each of its IP versions; () if it has none."""
        number = self.exit_number
        return () if number is None else tuple(exit_addresses(number, version)[1] for version in self._versions)

    def _find_exit(self, addresses: list[str]) -> None:
        self.exit_number = next((exit_number(address) for address in addresses if version_of(address) == 4), None)
        if self.exit_number is not None and exit_addresses(self.exit_number, 6)[1] in addresses:
            self._versions = (4, 6)

    @staticmethod
    def sweep(network_id: str, run_directory: Path, underlay: Underlay) -> None:
        """Remove what an earlier process left of a network, whole or not."""
        path = network_namespace(run_directory, network_id)
        if namespaces.kept(path):
            with namespaces.entered(path, underlay.home), RouteSocket() as routes:
                routes.send([link_removal("vxlan0"), link_removal("out0")])
        namespaces.forget(path)

    def plug(self, task_id: str, name: str, mac: str, mtu: int, namespace: int) -> None:
        """Give the namespace behind descriptor `namespace` an interface `name` on this network, still down."""
        inner = [
            ("IFLA_IFNAME", name),
            ("IFLA_ADDRESS", mac),
            ("IFLA_MTU", mtu),
            ("IFLA_NET_NS_FD", namespace),
        ]
        outer = [("IFLA_IFNAME", port_name(task_id)), ("IFLA_MTU", mtu), ("IFLA_MASTER", self._bridge), veth(inner)]
        self._routes.send([new_link(f"interface {name} of task {task_id}", outer)])

    def unplug(self, task_id: str, *, wait: bool = False) -> None:
        """Cut the task's interface off. It goes with the task's namespace, in the kernel's own time; at once if `wait`.

        Removing an interface makes the kernel wait for all its readers (some 25 ms); taking it down costs nothing.
        """
        name = port_name(task_id)
        if wait:
            self._routes.send([link_removal(name)])
        else:
            self._routes.send([link_down(name)])

    def program(self, wanted: Forwarding) -> None:
        """Make the kernel's entries be `wanted`. A refused one does not keep the rest back."""
        change = difference(self._programmed, wanted)
        if not change:
            return
        # Believed only once the kernel took all of it: a refusal makes the next call compare with the truth.
        try:
            self._routes.send(self._messages(change))
        except BaseException:
            self._programmed = self._read()
            raise
        if change.put_entries or change.drop_entries:
            with namespaces.entered(self._path, self._underlay.home):
                libnftables.load(firewall.entries({node_mac(vtep): node_mark(vtep) for vtep in wanted.entries}))
        self._programmed = Forwarding(dict(wanted.endpoints), dict(wanted.neighbours), wanted.entries)

    def remove(self) -> None:
        """Take everything away. The VXLAN device goes first: its identifier must be free when this returns."""
        try:
            self._routes.send([link_removal("vxlan0"), link_removal("out0")])
        finally:
            self._routes.close()
            namespaces.forget(self._path)

    def close(self) -> None:
        """Let go of the namespace without changing it."""
        self._routes.close()

    def _fill(self, network: Network) -> None:
        """In the new namespace: bridge, gateway addresses, forwarding."""
        self._versions = versions(network, self._underlay)
        namespaces.set_sysctl("ipv4.ip_forward", "1")
        namespaces.set_sysctl("ipv4.conf.all.rp_filter", "0")
        namespaces.set_sysctl("ipv4.conf.default.rp_filter", "0")
        # Packets of the ingress network come and go through the same bridge. A task that is told of a shorter way would
        # answer a client through one node, whichever it came in by. (The kernel asks `all` or the interface.)
        namespaces.set_sysctl("ipv4.conf.all.send_redirects", "0")
        namespaces.set_sysctl("ipv4.conf.default.send_redirects", "0")
        # What only crosses the bridge concerns no rule, and is not to be tracked packet by packet.
        for protocol in ("iptables", "ip6tables", "arptables"):
            namespaces.set_sysctl(f"bridge.bridge-nf-call-{protocol}", "0")
        namespaces.set_sysctl("ipv6.conf.all.forwarding", "1")
        namespaces.set_sysctl("ipv6.conf.default.disable_ipv6", "0" if 6 in self._versions else "1")
        namespaces.set_sysctl("ipv6.conf.default.accept_dad", "0")
        bridge = [
            ("IFLA_IFNAME", "br0"),
            ("IFLA_ADDRESS", node_mac(self._underlay.address)),
            ("IFLA_MTU", network_mtu(network, self._underlay)),
            kind("bridge", [("IFLA_BR_MCAST_SNOOPING", 0), ("IFLA_BR_FORWARD_DELAY", 0)]),
        ]
        self._routes.send([new_link(f"bridge of network {network.id}", bridge), link_up(1, "lo")])
        self._bridge = self._routes.link("br0") or 0
        if not network.spec.internal:
            self._routes.send(
                address_on(self._bridge, str(gateway), "br0")
                for gateway in gateways(network)
                if gateway.version in self._versions
            )
            libnftables.load(firewall.network_rules())

    def _join_underlay(self, network: Network, tunnels: Path | None) -> None:
        """The VXLAN device, as a port of the bridge. Its socket stays in the node's namespace, or in the tunnels'."""
        local = ipaddress.ip_address(self._underlay.address)
        data: list[tuple[str, int | str]] = [
            ("IFLA_VXLAN_ID", network.vni),
            ("IFLA_VXLAN_PORT", self._underlay.port),
            ("IFLA_VXLAN_LEARNING", 0),
        ]
        if tunnels is None:
            data.append(("IFLA_VXLAN_LOCAL" if local.version == 4 else "IFLA_VXLAN_LOCAL6", str(local)))
        else:
            # The route says which of the node's two addresses packets get; WireGuard vouches for what is in them.
            unchecked = ("IFLA_VXLAN_UDP_ZERO_CSUM6_TX", "IFLA_VXLAN_UDP_ZERO_CSUM6_RX")
            data += [("IFLA_VXLAN_LOCAL6", "::"), *((name, 1) for name in unchecked)]
        what = f"VXLAN device of network {network.id} (VNI {network.vni}, port {self._underlay.port})"
        with _open(self._path) as namespace, self._beside(tunnels), RouteSocket() as node:
            device = [
                ("IFLA_IFNAME", "vxlan0"),
                ("IFLA_NET_NS_FD", namespace.fileno()),
                ("IFLA_MTU", network_mtu(network, self._underlay)),
                kind("vxlan", data),
            ]
            node.send([new_link(what, device, up=False)])
        self._vxlan = self._routes.link("vxlan0") or 0
        # Nothing is learned and nothing flooded: what is not in the tables does not leave the node.
        port = [
            ("IFLA_BRPORT_LEARNING", 0),
            ("IFLA_BRPORT_UNICAST_FLOOD", 0),
            ("IFLA_BRPORT_MCAST_FLOOD", 0),
            ("IFLA_BRPORT_BCAST_FLOOD", 0),
            ("IFLA_BRPORT_NEIGH_SUPPRESS", 1),
        ]
        self._routes.send(
            [
                netlink.message(
                    netlink.RTM_NEWLINK,
                    0,
                    "VXLAN device into the bridge",
                    index=self._vxlan,
                    flags=UP,
                    change=UP,
                    attributes=[("IFLA_MASTER", self._bridge)],
                ),
                netlink.message(
                    netlink.RTM_SETLINK,
                    0,
                    "VXLAN device's bridge port",
                    family=socket.AF_BRIDGE,
                    index=self._vxlan,
                    attributes=[("IFLA_PROTINFO", port)],
                ),
            ]
        )

    def _beside(self, tunnels: Path | None) -> AbstractContextManager[None]:
        return nullcontext() if tunnels is None else namespaces.entered(tunnels, self._underlay.home)

    def _make_exit(self, number: int) -> None:
        """The link to the node's namespace, addresses at both ends and the default routes through it."""
        ends = [exit_addresses(number, version) for version in self._versions]
        name = exit_name(self.network_id)
        with _open(self._path) as namespace, RouteSocket() as node:
            far_end = [("IFLA_IFNAME", "out0"), ("IFLA_NET_NS_FD", namespace.fileno())]
            pair = [("IFLA_IFNAME", name), veth(far_end)]
            node.send([new_link(f"way out {name} of network {self.network_id}", pair)])
            if 6 in self._versions:
                namespaces.forward_ipv6()
                for setting, value in (("disable_ipv6", "0"), ("accept_ra", "0")):
                    namespaces.set_sysctl(f"ipv6.conf.{name}.{setting}", value)
            index = node.link(name) or 0
            node.send(address_on(index, _of_two(near), name) for near, _ in ends)
            self.exit_number = number
            self._open_loopback(node)
        outside = self._routes.link("out0") or 0
        self._routes.send(
            [
                link_up(outside, "out0"),
                *(address_on(outside, _of_two(far), "out0") for _, far in ends),
                *(default_route(outside, near) for near, _ in ends),
            ]
        )

    def _open_loopback(self, node: RouteSocket) -> None:
        """Published ports answer at 127.0.0.1 and ::1 of the node too, from where only this link leads to them."""
        name = exit_name(self.network_id)
        namespaces.set_sysctl(f"ipv4.conf.{name}.route_localnet", "1")
        index = node.link(name)
        if 6 in self._versions and index is not None and self.exit_number is not None:
            node.send([loopback_route(index, self.exit_number)])

    def _messages(self, change: ForwardingChange) -> list[Message]:
        messages = []
        for mac, vtep in change.drop_endpoints:
            messages += [self._forget_endpoint(mac, vtep, _MASTER), self._forget_endpoint(mac, vtep, _SELF)]
        messages += [self._forget_neighbour(address) for address in change.drop_neighbours]
        messages += [
            mark_rule_removal(node_mark(vtep), version) for vtep in change.drop_entries for version in self._versions
        ]
        messages += [
            netlink.replace(
                netlink.RTM_NEWNEIGH,
                f"forwarding entry {mac} → {vtep}",
                family=socket.AF_BRIDGE,
                ifindex=self._vxlan,
                state=_STATIC,
                flags=_SELF | _MASTER,
                attributes=[("NDA_LLADDR", mac), ("NDA_DST", vtep)],
            )
            for mac, vtep in change.put_endpoints
        ]
        messages += [
            netlink.replace(
                netlink.RTM_NEWNEIGH,
                f"neighbour entry {address} → {mac}",
                family=family(address),
                ifindex=self._bridge,
                state=_PERMANENT,
                attributes=[("NDA_DST", address), ("NDA_LLADDR", mac)],
            )
            for address, mac in change.put_neighbours
        ]
        for vtep in change.put_entries:
            mark = node_mark(vtep)
            for version in self._versions:
                way_back = default_route(self._bridge, node_hop(vtep, version), table=mark, onlink=True)
                messages += [way_back, mark_rule(mark, version)]
        return messages

    def _forget_endpoint(self, mac: str, vtep: str, table: int) -> Message:
        return netlink.remove(
            netlink.RTM_DELNEIGH,
            f"removal of forwarding entry {mac}",
            family=socket.AF_BRIDGE,
            ifindex=self._vxlan,
            state=_STATIC,
            flags=table,
            attributes=[("NDA_LLADDR", mac), *([("NDA_DST", vtep)] if table == _SELF else [])],
        )

    def _forget_neighbour(self, address: str) -> Message:
        return netlink.remove(
            netlink.RTM_DELNEIGH,
            f"removal of neighbour entry {address}",
            family=family(address),
            ifindex=self._bridge,
            attributes=[("NDA_DST", address)],
        )

    def _read(self) -> Forwarding:
        """The entries the kernel has now."""
        found = Forwarding()
        for entry in self._routes.neighbours(socket.AF_BRIDGE):
            vtep = entry.attributes.get("NDA_DST")
            if entry.fields["ifindex"] == self._vxlan and vtep is not None:
                found.endpoints[entry.attributes["NDA_LLADDR"]] = vtep
        found.entries = frozenset(map(hop_of_mark, self._routes.marks()))
        for version in (socket.AF_INET, socket.AF_INET6):
            for entry in self._routes.neighbours(version):
                if entry.fields["ifindex"] == self._bridge and entry.fields["state"] == _PERMANENT:
                    found.neighbours[entry.attributes["NDA_DST"]] = entry.attributes["NDA_LLADDR"]
        return found


def _of_two(address: str) -> str:
    """With the prefix length of a subnet of two."""
    return f"{address}/{31 if version_of(address) == 4 else 127}"


def _open(path: Path) -> Any:
    return open(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb", buffering=0)
