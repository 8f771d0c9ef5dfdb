"""The segments of one node: which networks exist here, and which tasks are attached to them.

A network exists on a node while a task is attached to it, or while it is held (the ingress network, on nodes that
answer published ports without having a task). The node's own rules exist while any network with a way out does.

Blocking, and only ever used on the overlay's kernel thread, which keeps it consistent without locks.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flota.overlay import attachments, firewall, libnftables, namespaces
from flota.overlay.addresses import exit_addresses, exit_index
from flota.overlay.attachments import InterfacePlan
from flota.overlay.dns.server import Sockets
from flota.overlay.forwarding import Forwarding
from flota.overlay.segment import Segment, Underlay
from flota.v1.objects_pb2 import Network, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaysIn:
    """Network → how the node's namespace reaches it. Only networks with a way out have a way in.

    `made` numbers (of the node's rules, of each network) tell what was made anew: nothing of before is in it.
    """

    made: int
    networks: Mapping[str, tuple[str, int]]


class Segments:
    """What the kernel has, as far as this process made it or took it over."""

    def __init__(self, run_directory: Path, underlay: Underlay) -> None:
        self._run_directory = run_directory
        self._underlay = underlay
        self._segments: dict[str, Segment] = {}
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
                network_id: (exit_addresses(segment.exit_number)[1], self._made.get(network_id, 0))
                for network_id, segment in self._segments.items()
                if segment.exit_number is not None
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
            segment = Segment.find(network_id, self._run_directory, self._underlay)
            if segment is not None:
                self._segments[network_id] = segment
        for task_id in tasks - keep.keys() - set(served):
            attachments.demolish(task_id, list(self._segments.values()), self._run_directory)
            attachments.forget(task_id, self._run_directory)
        for network_id in networks - self._segments.keys():
            Segment.sweep(network_id, self._run_directory, self._underlay)
        self._node_ready = bool(self.ways_in().networks)
        libnftables.load(firewall.node_rules() if self._node_ready else firewall.remove_rules())
        reopened: dict[str, Sockets] = {}
        for task_id in keep:
            try:
                reopened[task_id] = attachments.reopen(task_id, self._run_directory, self._underlay)
            except OSError as error:
                log.warning("task %s: its names cannot be served again: %s", task_id, error)
        return reopened

    def let_go(self) -> None:
        """Leave everything as it is, for the next process."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    def _require(self, network: Network, forwarding: Forwarding) -> None:
        if network.id in self._segments:
            return
        if not self._node_ready and not network.spec.internal:
            namespaces.set_sysctl("ipv4.ip_forward", "1")
            libnftables.load(firewall.node_rules())
            self._node_ready = True
            self._node_made = self._next()
        taken = {segment.exit_number for segment in self._segments.values() if segment.exit_number is not None}
        number = exit_index(network.vni, taken)
        segment = Segment.create(network, self._run_directory, self._underlay, number)
        self._segments[network.id] = segment
        self._made[network.id] = self._next()
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

    def _remove_unused(self) -> None:
        in_use = self._in_use()
        for network_id in [network_id for network_id in self._segments if network_id not in in_use]:
            self._made.pop(network_id, None)
            self._segments.pop(network_id).remove()
        if self._node_ready and not self.ways_in().networks:
            libnftables.load(firewall.remove_rules())
            self._node_ready = False
