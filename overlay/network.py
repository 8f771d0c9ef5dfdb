"""Network: this node's networks, as the worker drives them.

    apply ──► model (pure: what should be) ──► names at once
                    │
                    └─► one background task ──► kernel thread: segments (a network's namespace), forwarding entries
    attach / detach / adopt ──────────────────► kernel thread: tasks' namespaces, sockets of their DNS servers

A network exists on the node while a task is attached to it. Containers outlive the worker, so `stop` leaves the
kernel as it is and `adopt` takes it over. Never decides about addresses, and never talks to a manager.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

from flota.overlay import attachments, balance, firewall, namespaces
from flota.overlay.addresses import exit_index, task_namespace
from flota.overlay.attachments import InterfacePlan
from flota.overlay.balance import Balance
from flota.overlay.balancer import Balancer
from flota.overlay.dns.resolver import Resolver
from flota.overlay.dns.server import ADDRESS, Server, Sockets
from flota.overlay.dns.upstream import HostConfiguration, Upstream
from flota.overlay.errors import OverlayError
from flota.overlay.forwarding import Forwarding, wanted
from flota.overlay.kernel import KernelThread, open_home
from flota.overlay.model import Model
from flota.overlay.netlink import RouteSocket
from flota.overlay.sandbox import Sandbox
from flota.overlay.segment import Segment, Underlay
from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.objects_pb2 import Network as NetworkObject
from flota.v1.objects_pb2 import Task

log = logging.getLogger(__name__)

_USUAL_MTU = 1500
# Seconds after which a refused change is tried again.
_RETRY = 1.0


class Network:
    """The networks of one node. One instance per worker process; all methods on the event loop."""

    def __init__(
        self,
        run_directory: Path,
        local_address: str,
        vxlan_port: int,
        node_id: str,
        *,
        host_resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        """`run_directory` is RUN (namespaces go to RUN/netns); `local_address` the VXLAN endpoint's own address."""
        self._run_directory = run_directory
        self._local_address = local_address
        self._vxlan_port = vxlan_port
        self._node_id = node_id
        self._host = HostConfiguration(host_resolv_conf)
        self._model = Model()
        self._resolver = Resolver(self._model, SystemRandom())
        self._tasks: dict[str, Task] = {}
        self._servers: dict[str, Server] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        # Only the kernel thread touches these: segments, who is attached to which, whether the node's rules are loaded.
        self._segments: dict[str, Segment] = {}
        self._attached: dict[str, set[str]] = {}
        self._node_ready = False
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Begin to serve. Kernel state of earlier runs stays as it is until `adopt`."""
        self._kernel = KernelThread()
        self._upstream = Upstream()
        self._underlay = await self._kernel.call(self._find_underlay)
        self._balancer = Balancer(self._run_directory, self._underlay.home, SystemRandom())
        self._programmer = asyncio.create_task(self._program(), name="overlay-programmer")

    async def stop(self) -> None:
        """Stop serving names. Namespaces and links of attached tasks stay: containers outlive the worker."""
        self._programmer.cancel()
        with suppress(asyncio.CancelledError):
            await self._programmer
        for server in self._servers.values():
            await server.close()
        self._servers.clear()
        await self._kernel.call(self._let_go)
        self._kernel.stop()
        self._balancer.stop()
        os.close(self._underlay.home)

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        """Take over networks, peers and services (other kinds are skipped). `complete` replaces all known ones.

        Names follow at once; links and forwarding entries within milliseconds, in the background.
        """
        touched = self._model.apply(changes, complete)
        if touched:
            self._touch(touched)

    async def settled(self) -> None:
        """Wait until the kernel has what `apply` was last told (or has refused it). For tests and measurements."""
        await self._idle.wait()

    async def attach(self, task: Task) -> Sandbox:
        """Make (or find) the task's namespace with its interfaces. Raises OverlayError; leaves nothing half made."""
        async with self._locks.setdefault(task.id, asyncio.Lock()):
            if task.id not in self._servers:
                plans = attachments.plan(task, self._model.networks, self._underlay)
                networks = {one.network_id: self._model.networks[one.network_id] for one in plans}
                forwardings = {network_id: self._forwarding(network_id) for network_id in networks}
                sockets = await self._kernel.call(self._build, task, plans, networks, forwardings)
                try:
                    await self._balancer.add(task.id, self._balance(networks))
                except BaseException:
                    sockets.close()
                    await self._kernel.call(self._demolish, task.id)
                    raise
                self._serve(task, sockets)
                # Entries that came in while it was made.
                self._touch(networks)
        return self._sandbox(task)

    async def detach(self, task_id: str) -> None:
        """Remove the task's namespace and interfaces. Unknown ids are no error."""
        async with self._locks.setdefault(task_id, asyncio.Lock()):
            server = self._servers.pop(task_id, None)
            self._tasks.pop(task_id, None)
            self._balancer.forget(task_id)
            if server is not None:
                await server.close()
            await self._kernel.call(self._demolish, task_id)
        self._locks.pop(task_id, None)

    async def adopt(self, task_ids: set[str]) -> None:
        """After a restart: serve names to these tasks again, remove namespaces and links of all others.

        Forwarding entries stay until the first complete set says what they should be.
        """
        remembered = await self._kernel.call(attachments.recall, self._run_directory)
        keep = {task_id: task for task_id, task in remembered.items() if task_id in task_ids}
        for task_id in list(self._servers):
            if task_id in task_ids:
                keep.pop(task_id, None)
            else:
                await self.detach(task_id)
        reopened = await self._kernel.call(self._take_over, keep, self._in_use(keep.values()), set(self._servers))
        for task_id, sockets in reopened.items():
            self._serve(keep[task_id], sockets)
            try:
                await self._balancer.adopt(task_id)
            except (OverlayError, OSError) as error:
                log.warning("task %s: virtual addresses cannot be served again: %s", task_id, error)
        self._touch(self._in_use())

    def _serve(self, task: Task, sockets: Sockets) -> None:
        self._tasks[task.id] = task
        self._servers[task.id] = Server(
            sockets,
            networks=[attachment.network_id for attachment in task.networks],
            nameservers=list(task.spec.container.dns.nameservers),
            resolver=self._resolver,
            upstream=self._upstream,
            host=self._host,
        )

    def _sandbox(self, task: Task) -> Sandbox:
        dns = task.spec.container.dns
        host = self._host.read()
        search = " ".join(dns.search or host.search)
        # Names of services have no dot: none means that they are asked for as they are, before any search domain.
        options = " ".join(dns.options or ("ndots:0",))
        lines = [f"nameserver {ADDRESS}", *([f"search {search}"] if search else []), f"options {options}"]
        hosts = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
        hostname = task.spec.container.hostname
        if hostname and "{{" not in hostname and task.networks and task.networks[0].addresses:
            hosts.append(f"{task.networks[0].addresses[0].partition('/')[0]} {hostname}")
        return Sandbox(
            netns=task_namespace(self._run_directory, task.id),
            resolv_conf="\n".join(lines) + "\n",
            hosts=(*hosts, *task.spec.container.hosts),
        )

    def _in_use(self, more: Iterable[Task] = ()) -> set[str]:
        """Networks some task of this node is attached to."""
        tasks = (*self._tasks.values(), *more)
        return {attachment.network_id for task in tasks for attachment in task.networks}

    def _forwarding(self, network_id: str) -> Forwarding:
        return wanted(self._model.peers(network_id), self._node_id, self._local_address)

    def _balance(self, network_ids: Iterable[str]) -> Balance:
        """Virtual addresses of some networks together."""
        result: Balance = {}
        for network_id in network_ids:
            result |= balance.wanted(self._model.services(network_id), self._model.peers(network_id))
        return result

    async def _program(self) -> None:
        """Bring the kernel's forwarding entries after the model's, as long as the worker runs."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Until a manager has spoken the model is empty, and the entries of before a restart are the best there are.
            networks, self._dirty = self._dirty & self._in_use(), set()
            refused: set[str] = set()
            if self._model.complete:
                for network_id in networks:
                    refused |= await self._program_network(network_id)
                refused |= await self._program_balance(networks)
            if refused:
                asyncio.get_running_loop().call_later(_RETRY, self._touch, refused)
            if not self._wake.is_set():
                self._idle.set()

    async def _program_network(self, network_id: str) -> set[str]:
        """Forwarding entries of one network; returns it if the kernel refused."""
        try:
            await self._kernel.call(self._program_segment, network_id, self._forwarding(network_id))
        except (OverlayError, OSError) as error:
            log.warning("network %s: %s", network_id, error)
            return {network_id}
        return set()

    async def _program_balance(self, networks: set[str]) -> set[str]:
        """Virtual addresses for every task on one of `networks`; returns those of tasks where the kernel refused."""
        of_network = {network_id: self._balance([network_id]) for network_id in self._in_use()}
        alive = {
            address.partition("/")[0]
            for network_id in of_network
            for peer in self._model.peers(network_id)
            for address in peer.addresses
        }
        updates = {}
        for task in self._tasks.values():
            on = {attachment.network_id for attachment in task.networks}
            if on & networks:
                wanted = {address: behind for one in on for address, behind in of_network[one].items()}
                updates[task.id] = (on, self._balancer.update(task.id, wanted, alive))
        results = await asyncio.gather(*(update for _, update in updates.values()), return_exceptions=True)
        refused: set[str] = set()
        for (task_id, (on, _)), result in zip(updates.items(), results, strict=True):
            # A task that was detached meanwhile has no namespace to be changed.
            if isinstance(result, OverlayError | OSError) and task_id in self._tasks:
                log.warning("task %s: %s", task_id, result)
                refused |= on
            elif isinstance(result, BaseException) and not isinstance(result, OverlayError | OSError):
                raise result
        return refused

    def _touch(self, networks: Iterable[str]) -> None:
        """Have the kernel's entries of these networks compared with the model's."""
        self._dirty.update(networks)
        self._idle.clear()
        self._wake.set()

    # From here on: the kernel thread.

    def _find_underlay(self) -> Underlay:
        with RouteSocket() as routes:
            mtu = routes.mtu_of_address(self._local_address)
        if mtu is None:
            log.warning("no interface has %s: VXLAN assumes an MTU of %d", self._local_address, _USUAL_MTU)
        return Underlay(open_home(), self._local_address, self._vxlan_port, mtu or _USUAL_MTU)

    def _build(
        self,
        task: Task,
        plans: tuple[InterfacePlan, ...],
        networks: Mapping[str, NetworkObject],
        forwardings: Mapping[str, Forwarding],
    ) -> Sockets:
        self._attached[task.id] = set(networks)
        try:
            for network_id, network in networks.items():
                if network_id not in self._segments:
                    self._segments[network_id] = self._make_segment(network)
                    self._segments[network_id].program(forwardings[network_id])
            attachments.remember(task, self._run_directory)
            return attachments.build(task.id, plans, self._segments, self._run_directory, self._underlay)
        except BaseException:
            self._forget(task.id)
            raise

    def _make_segment(self, network: NetworkObject) -> Segment:
        if not self._node_ready and not network.spec.internal:
            namespaces.set_sysctl("ipv4.ip_forward", "1")
            firewall.load(firewall.node_rules())
            self._node_ready = True
        taken = {segment.exit_number for segment in self._segments.values() if segment.exit_number is not None}
        return Segment.create(network, self._run_directory, self._underlay, exit_index(network.vni, taken))

    def _demolish(self, task_id: str) -> None:
        segments = [self._segments[one] for one in self._attached.get(task_id, ()) if one in self._segments]
        attachments.demolish(task_id, segments, self._run_directory)
        self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        """Forget a task, and remove the networks nobody is on any more."""
        attachments.forget(task_id, self._run_directory)
        self._attached.pop(task_id, None)
        in_use = {network_id for networks in self._attached.values() for network_id in networks}
        for network_id in [network_id for network_id in self._segments if network_id not in in_use]:
            self._segments.pop(network_id).remove()
        if not self._segments and self._node_ready:
            firewall.load(firewall.remove_rules())
            self._node_ready = False

    def _program_segment(self, network_id: str, forwarding: Forwarding) -> None:
        segment = self._segments.get(network_id)
        if segment is not None:
            segment.program(forwarding)

    def _take_over(self, keep: Mapping[str, Task], in_use: set[str], served: set[str]) -> dict[str, Sockets]:
        tasks, networks = attachments.leftovers(self._run_directory)
        for network_id in networks & in_use - self._segments.keys():
            segment = Segment.find(network_id, self._run_directory, self._underlay)
            if segment is not None:
                self._segments[network_id] = segment
        for task_id in tasks - keep.keys() - served:
            attachments.demolish(task_id, list(self._segments.values()), self._run_directory)
            attachments.forget(task_id, self._run_directory)
        for network_id in networks - self._segments.keys():
            Segment.sweep(network_id, self._run_directory, self._underlay)
        if any(segment.exit_number is not None for segment in self._segments.values()):
            firewall.load(firewall.node_rules())
            self._node_ready = True
        else:
            firewall.load(firewall.remove_rules())
        reopened: dict[str, Sockets] = {}
        for task_id, task in keep.items():
            self._attached[task_id] = {attachment.network_id for attachment in task.networks}
            try:
                reopened[task_id] = attachments.reopen(task_id, self._run_directory, self._underlay)
            except OSError as error:
                log.warning("task %s: its names cannot be served again: %s", task_id, error)
        return reopened

    def _let_go(self) -> None:
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
