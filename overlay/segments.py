"""The segments of one node: which networks exist here, and which tasks are attached to them.

A network exists on a node while a task is attached to it, or while it is held (the ingress network, on nodes that
answer published ports without having a task), and for a while after that: making one is the longest part of a task's
start, and the next task often comes soon. The node's own rules exist while any network with a way out does.

Blocking, and only ever used on the overlay's kernel thread, which keeps it consistent without locks.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flota.overlay import attachments, firewall, libnftables, namespaces
from flota.overlay.addresses import exit_index
from flota.overlay.attachments import InterfacePlan
from flota.overlay.dns.server import Sockets
from flota.overlay.forwarding import Forwarding
from flota.overlay.links import loopback_rule, loopback_rule_removal
from flota.overlay.netlink import RouteSocket
from flota.overlay.segment import Segment
from flota.overlay.tunnels import Tunnels
from flota.overlay.underlay import Underlay
from flota.v1.network_options import is_encrypted
from flota.v1.objects_pb2 import Network, Task

log = logging.getLogger(__name__)


class WayIn(NamedTuple):
    """A network as the node's namespace reaches it: at an address of each of its IP versions."""

    addresses: tuple[str, ...]
    made: int


@dataclass(frozen=True)
class WaysIn:
    """Network → how the node's namespace reaches it. Only networks with a way out have a way in.

    `made` numbers (of the node's rules, of each network) tell what was made anew: nothing of before is in it.
    """

    made: int
    networks: Mapping[str, WayIn]


class Segments:
    """What the kernel has, as far as this process made it or took it over."""

    def __init__(self, run_directory: Path, underlay: Underlay, tunnels: Tunnels, linger: float = 0.0) -> None:
        """`linger` are the seconds for which a network stays that nobody is on any more."""
        self._linger = linger
        # Networks nobody is on: since when (monotonic).
        self._unused: dict[str, float] = {}
        self._vnis: dict[str, int] = {}
        self._run_directory = run_directory
        self._tunnels = tunnels
        self._encrypted: set[str] = set()
        self._underlay = underlay
        self._segments: dict[str, Segment] = {}
        # Networks of this node alone.
        self.local: Set[str] = frozenset()
        self._attached: dict[str, set[str]] = {}
        self._held: set[str] = set()
        self._node_ready = False
        self._count = 0
        self._node_made = 0
        self._made: dict[str, int] = {}

    def attach(
        self,
        task: Task,
        plans: Sequence[InterfacePlan],
        networks: Mapping[str, Network],
        forwardings: Mapping[str, Forwarding],
    ) -> Sockets:
        """Make a task's namespace, and networks that are not here yet. Raises OverlayError, OSError; undone then."""
        self._attached[task.id] = set(networks)
        try:
            for network_id, network in networks.items():
                self._require(network, forwardings[network_id])
            attachments.remember(task, self._run_directory)
            return attachments.build(task.id, plans, self._segments, self._run_directory, self._underlay)
        except BaseException:
            self._forget(task.id)
            raise

    def change(
        self,
        old: Task,
        new: Task,
        plans: Sequence[InterfacePlan],
        networks: Mapping[str, Network],
        forwardings: Mapping[str, Forwarding],
    ) -> None:
        """Have an attached task be on `networks`, and on no others; `new` is what is remembered of it then.

        Raises OverlayError, OSError; it is not on those that it was not on before then.
        """
        before = self._attached[new.id]
        added, gone = networks.keys() - before, before - networks.keys()
        self._attached[new.id] = before | added
        # A crash in the midst of it leaves a record of all that may be there.
        both = Task()
        both.CopyFrom(new)
        both.networks.extend(one for one in old.networks if one.network_id in gone)
        try:
            for network_id in added:
                self._require(networks[network_id], forwardings[network_id])
            attachments.remember(both, self._run_directory)
            attachments.rewire(new.id, plans, added, self._segments, self._run_directory, self._underlay)
        except BaseException:
            for network_id in added & self._segments.keys():
                self._segments[network_id].unplug(new.id, wait=True)
            self._attached[new.id] = before
            attachments.remember(old, self._run_directory)
            self._remove_unused()
            raise
        # Nobody is to be sent there any longer: the default routes lead elsewhere by now.
        for network_id in gone & self._segments.keys():
            self._segments[network_id].unplug(new.id, wait=True)
        self._attached[new.id] = set(networks)
        attachments.remember(new, self._run_directory)
        self._remove_unused()

    def detach(self, task_id: str) -> None:
        """Remove a task's namespace, and networks nobody is on any more. Unknown ids are no error."""
        segments = [self._segments[one] for one in self._attached.get(task_id, ()) if one in self._segments]
        attachments.demolish(task_id, segments, self._run_directory)
        self._forget(task_id)

    def hold(self, networks: Mapping[str, Network], forwardings: Mapping[str, Forwarding]) -> None:
        """Have these networks, and no others, also without tasks."""
        self._held = set(networks)
        attachments.remember_held(self._held, self._run_directory)
        for network_id, network in networks.items():
            self._require(network, forwardings[network_id])
        self._remove_unused()

    def program(self, network_id: str, forwarding: Forwarding) -> None:
        """Make a network's entries be `forwarding`; nothing if the network is not here."""
        segment = self._segments.get(network_id)
        if segment is not None:
            segment.program(forwarding)

    def ways_in(self) -> WaysIn:
        """How the node's namespace reaches its networks."""
        return WaysIn(
            self._node_made,
            {
                network_id: WayIn(segment.ways_in, self._made.get(network_id, 0))
                for network_id, segment in self._segments.items()
                if segment.ways_in
            },
        )

    def take_over(self, keep: Mapping[str, Task], served: Collection[str]) -> dict[str, Sockets]:
        """After a restart: find the networks of `keep`, remove all other tasks (but `served` ones) and networks.

        Returns new sockets for the DNS servers of `keep`.
        """
        tasks, networks = attachments.leftovers(self._run_directory)
        self._held |= attachments.recall_held(self._run_directory) & networks
        for task_id, task in keep.items():
            self._attached[task_id] = {attachment.network_id for attachment in task.networks}
        for network_id in networks & self._in_use() - self._segments.keys():
            local = network_id in self.local
            segment = Segment.find(network_id, self._run_directory, self._underlay, local=local)
            if segment is not None:
                self._segments[network_id] = segment
        for task_id in tasks - keep.keys() - set(served):
            attachments.demolish(task_id, list(self._segments.values()), self._run_directory)
            attachments.forget(task_id, self._run_directory)
        for network_id in networks - self._segments.keys():
            Segment.sweep(network_id, self._run_directory, self._underlay)
        self._encrypted = self._tunnels.recall() & self._segments.keys()
        if self._tunnels.is_up and not self._encrypted:
            self._tunnels.remove()
        self._node_ready = bool(self.ways_in().networks)
        if self._node_ready:
            self._load_node_rules()
        else:
            self._remove_node_rules()
        reopened: dict[str, Sockets] = {}
        for task_id in keep:
            try:
                reopened[task_id] = attachments.reopen(task_id, self._run_directory, self._underlay)
            except OSError as error:
                log.warning("task %s: its names cannot be served again: %s", task_id, error)
        return reopened

    def let_go(self) -> None:
        """Leave everything as it is, for the next process; nothing if nobody is on a network."""
        if not self._in_use():
            self.tidy(at_once=True)
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    def make_ready(self) -> None:
        """Have the node's own rules, so that the first network does not have to wait for them."""
        if not self._node_ready:
            namespaces.set_sysctl("ipv4.ip_forward", "1")
            self._load_node_rules()
            self._node_ready = True
            self._node_made = self._next()

    def tidy(self, *, at_once: bool = False) -> None:
        """Remove the networks that nobody has been on for long enough; `at_once`: all that nobody is on."""
        self._remove_unused(0.0 if at_once else self._linger)

    def _require(self, network: Network, forwarding: Forwarding) -> None:
        known = self._segments.get(network.id)
        if known is not None:
            if self._unused.pop(network.id, None) is not None:
                # Nobody told it anything meanwhile.
                known.program(forwarding)
            return
        # A network that was deleted may still linger, and its identifier be another one's now.
        for network_id in [one for one in self._unused if network.vni and self._vnis.get(one) == network.vni]:
            self._remove(network_id)
        if not network.spec.internal:
            self.make_ready()
        taken = {segment.exit_number for segment in self._segments.values() if segment.exit_number is not None}
        number = exit_index(network.vni, taken)
        through = None
        if is_encrypted(network.spec):
            self._tunnels.require()
            self._encrypted.add(network.id)
            self._tunnels.remember(self._encrypted)
            through = self._tunnels.namespace
        segment = Segment.create(network, self._run_directory, self._underlay, number, through)
        self._segments[network.id] = segment
        self._made[network.id] = self._next()
        self._vnis[network.id] = network.vni
        segment.program(forwarding)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _forget(self, task_id: str) -> None:
        attachments.forget(task_id, self._run_directory)
        self._attached.pop(task_id, None)
        self._remove_unused()

    def _in_use(self) -> set[str]:
        return self._held | {network_id for networks in self._attached.values() for network_id in networks}

    def _remove_unused(self, linger: float | None = None) -> None:
        in_use, now = self._in_use(), time.monotonic()
        for network_id in list(self._segments):
            if network_id in in_use:
                self._unused.pop(network_id, None)
                continue
            # What an earlier process made goes at once: its identifier is not known here.
            longest = (self._linger if linger is None else linger) if network_id in self._vnis else 0.0
            if now - self._unused.setdefault(network_id, now) >= longest:
                self._remove(network_id)
        if self._tunnels.is_up and not self._encrypted:
            self._tunnels.remove()
        # A node that keeps networks for the next task keeps its rules for the next network.
        keeps = bool(self._linger if linger is None else linger)
        if self._node_ready and not keeps and not self.ways_in().networks:
            self._remove_node_rules()
            self._node_ready = False

    def _load_node_rules(self) -> None:
        libnftables.load(firewall.node_rules())
        if self._underlay.has_ipv6:
            with RouteSocket() as node:
                node.send([loopback_rule()])

    def _remove_node_rules(self) -> None:
        libnftables.load(firewall.remove_rules())
        if self._underlay.has_ipv6:
            with RouteSocket() as node:
                node.send([loopback_rule_removal()])

    def _remove(self, network_id: str) -> None:
        for known in (self._made, self._vnis, self._unused):
            known.pop(network_id, None)
        self._segments.pop(network_id).remove()
        if network_id in self._encrypted:
            self._encrypted.discard(network_id)
            self._tunnels.remember(self._encrypted)
