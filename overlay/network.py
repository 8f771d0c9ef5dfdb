"""Network: this node's networks, as the worker drives them.

    apply ──► model (pure: what is known) ──► names at once
                    │
                    └─► programmer: the kernel comes after what is wanted, in the background
    attach / change / detach / adopt ─► kernel thread: networks' and tasks' namespaces, sockets of their DNS servers

A network exists on the node while a task is attached to it, and for a minute after that; the ingress network as long
as the manager sends it. Containers outlive the worker, so `stop` leaves the kernel as it is and `adopt` takes it over.
Never decides about addresses, and never talks to a manager.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random, SystemRandom

from flota.overlay import attachments, firewall, libnftables, namespaces, sockets
from flota.overlay.addresses import task_namespace
from flota.overlay.balancer import Balancer
from flota.overlay.checkup import View
from flota.overlay.dns.resolver import Resolver
from flota.overlay.dns.server import ADDRESS, Server, Sockets
from flota.overlay.dns.upstream import HostConfiguration, Open, Upstream, make_socket
from flota.overlay.encryption import Encryption
from flota.overlay.errors import NotAttached, OverlayError
from flota.overlay.host import host_sandbox, is_on_host
from flota.overlay.kernel import KernelThread, NamespaceThreads, open_home
from flota.overlay.model import Model
from flota.overlay.netlink import RouteSocket
from flota.overlay.programmer import Programmer
from flota.overlay.proxies import Proxies
from flota.overlay.publisher import Publisher
from flota.overlay.sandbox import Sandbox
from flota.overlay.segments import Segments
from flota.overlay.tunnel_keys import LIFE, SETTLE
from flota.overlay.underlay import Underlay
from flota.overlay.wanted import Wanted
from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.objects_pb2 import Network as NetworkObject
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NetworkAttachment

log = logging.getLogger(__name__)

_USUAL_MTU = 1500
# Seconds for which a network stays here that no task is on any more.
LINGER = 60.0
# Seconds for which a namespace without programs stays at most, until what they sent has arrived.
LAST_WORDS = 2.0


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
        linger: float = LINGER,
        key_life: float = LIFE,
        key_settle: float = SETTLE,
    ) -> None:
        """`run_directory` is RUN (namespaces go to RUN/netns); `local_address` the VXLAN endpoint's own address."""
        self._linger = linger
        self._run_directory = run_directory
        self._local_address = local_address
        self._vxlan_port = vxlan_port
        self._node_id = node_id
        self._host = HostConfiguration(host_resolv_conf)
        self._model = Model()
        self.encryption = Encryption(self._model, key_life, key_settle)
        self._resolver = Resolver(self._model, Random())
        self._tasks: dict[str, Task] = {}
        self._servers: dict[str, Server] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def start(self) -> None:
        """Begin to serve. Kernel state of earlier runs stays as it is until `adopt`."""
        self._kernel = KernelThread()
        self._upstream = Upstream()
        self._underlay = await self._kernel.call(self._find_underlay)
        tunnels = await self.encryption.start(self._run_directory, self._underlay, self._kernel)
        self._segments = Segments(self._run_directory, self._underlay, tunnels, self._linger)
        self._threads = NamespaceThreads(self._underlay.home)
        self._balancer = Balancer(self._run_directory, self._threads, SystemRandom())
        self._publisher = Publisher(self._run_directory, self._threads, SystemRandom())
        self._proxies = Proxies(self._run_directory, self._underlay.home)
        self._wanted = Wanted(self._model, self._tasks, self.encryption, self._underlay, self._node_id)
        self._programmer = Programmer(
            self._wanted, self.encryption, self._kernel, self._segments, self._balancer, self._publisher
        )
        self._programming = asyncio.create_task(self._programmer.run(), name="overlay-programmer")
        self._tidying = asyncio.create_task(self._tidy(), name="overlay-tidying")

    async def stop(self) -> None:
        """Stop serving names. Namespaces and links of attached tasks stay: containers outlive the worker."""
        self._programming.cancel()
        self._tidying.cancel()
        await asyncio.gather(self._programming, self._tidying, return_exceptions=True)
        await self.encryption.stop()
        await self._proxies.stop()
        for server in self._servers.values():
            await server.close()
        self._servers.clear()
        await self._kernel.call(self._segments.let_go)
        self._kernel.stop()
        self._threads.stop()
        os.close(self._underlay.home)

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        """Take over networks, peers and services (other kinds are skipped). `complete` replaces all known ones.

        Names follow at once; links and forwarding entries within milliseconds, in the background.
        """
        is_first = complete and not self._model.complete
        touched = self._model.apply(changes, complete)
        if is_first:
            # Rounds before it did nothing, also for networks that managers do not know.
            touched |= self._wanted.in_use()
        if touched:
            self._programmer.touch(touched)

    def set_local(self, networks: Iterable[NetworkObject]) -> None:
        """Networks of this node alone: all of them, whatever managers say. Before `adopt` when there are any."""
        wanted = {network.id: network for network in networks}
        changes = [AssignmentChange(network=network) for network in wanted.values()]
        for network_id in self._model.local - wanted.keys():
            gone = NetworkObject(id=network_id)
            changes.append(AssignmentChange(action=AssignmentChange.ACTION_REMOVE, network=gone))
        self._model.local = self._segments.local = set(wanted)
        self.apply(changes, complete=False)

    def attached(self) -> list[Task]:
        """What is remembered of tasks that have a namespace: their networks and addresses."""
        return list(self._tasks.values())

    def view(self) -> View:
        """What a checkup looks at."""
        tasks = tuple(self._tasks[task_id] for task_id in self._servers if task_id in self._tasks)
        return View(self._run_directory, self._node_id, self._vxlan_port, self._model, tasks)

    async def settled(self) -> None:
        """Wait until the kernel has what `apply` was last told (or has refused it). For tests and measurements."""
        await self._programmer.settled()

    async def in_force(self) -> None:
        """Wait until nothing that `apply` has withdrawn is used by the kernel any longer (or it refused).

        More tasks to share the work may still wait for their moment.
        """
        await self._programmer.in_force()

    async def attach(self, task: Task) -> Sandbox:
        """Make (or find) the task's namespace with its interfaces. Raises OverlayError; leaves nothing half made.

        A task on the network `host` gets none: it is in the node's.
        """
        if is_on_host(task):
            return host_sandbox(task, self._host.read())
        async with self._locks.setdefault(task.id, asyncio.Lock()):
            if task.id not in self._servers:
                kept, sockets = await self._build(task)
                self._serve(kept, sockets)
                # Entries that came in while it was made.
                self._programmer.touch(network.network_id for network in task.networks)
        return self._sandbox(task)

    async def change(self, task_id: str, networks: Sequence[NetworkAttachment]) -> None:
        """Have an attached task be on these networks and no others, while its programs run.

        Names of networks that it leaves are withdrawn from it first. Raises OverlayError (NotAttached: it is not, or
        no longer), OSError; then it is on what it was on.
        """
        async with self._locks.setdefault(task_id, asyncio.Lock()):
            old = self._tasks.get(task_id)
            if old is None:
                raise NotAttached(task_id)
            new = Task()
            new.CopyFrom(old)
            del new.networks[:]
            new.networks.extend(networks)
            plans = attachments.plan(new, self._model.networks, self._underlay)
            there = {one.network_id: self._model.networks[one.network_id] for one in plans}
            forwardings = {network_id: self._wanted.forwarding(network_id) for network_id in there}
            await self.encryption.program({*there, *self._wanted.in_use()})
            server = self._servers[task_id]
            leads_out = attachments.leads_out(plans)
            led_out = server.leads_out
            stays = [one.network_id for one in old.networks if one.network_id in there]
            server.follow(stays, leads_out=led_out and leads_out)
            kept = old
            try:
                await self._balancer.update(task_id, self._wanted.balance(there), self._wanted.alive())
                await self._kernel.call(self._segments.change, old, new, plans, there, forwardings)
                kept = new
            finally:
                self._tasks[task_id] = kept
                self._publisher.follow(kept)
                server.follow(
                    [one.network_id for one in kept.networks], leads_out=leads_out if kept is new else led_out
                )
                self._programmer.touch(one.network_id for task in (old, new) for one in task.networks)

    def name_of(self, network_id: str) -> str:
        """What people call a network; empty if it is not known here (yet)."""
        network = self._model.networks.get(network_id)
        return network.spec.annotations.name if network is not None else ""

    async def close(self, task_id: str) -> None:
        """The task is about to be told to stop: from now on it refuses no connection (firewall.closing_rules).

        One that has no namespace, or on which the kernel refuses, does without.
        """
        if task_id not in self._servers:
            return
        namespace = task_namespace(self._run_directory, task_id)
        try:
            await self._threads.inside(namespace, _refuse_nobody)
        except (OverlayError, OSError) as error:
            log.info("task %s: refuses connections while it stops: %s", task_id, error)

    async def detach(self, task_id: str) -> None:
        """Remove the task's namespace and interfaces. Unknown ids are no error."""
        async with self._locks.setdefault(task_id, asyncio.Lock()):
            server = self._servers.pop(task_id, None)
            task = self._tasks.pop(task_id, None)
            self._balancer.forget(task_id)
            self._publisher.release_ports(task_id)
            await self._proxies.remove(task_id)
            if server is not None:
                await server.close()
                await self._hear_last_words(task_id)
            await self._kernel.call(self._segments.detach, task_id)
            if task is not None and task.endpoint.ports:
                self._programmer.touch(network.network_id for network in task.networks)
        self._locks.pop(task_id, None)

    async def _hear_last_words(self, task_id: str) -> None:
        """Until what its programs have sent has arrived, for a while."""
        namespace = task_namespace(self._run_directory, task_id)
        end = time.monotonic() + LAST_WORDS
        with suppress(OSError):
            while time.monotonic() < end:
                if not await self._threads.inside(namespace, sockets.are_unsaid):
                    return
                await asyncio.sleep(0.02)

    async def adopt(self, task_ids: set[str]) -> None:
        """After a restart: serve names to these tasks again, remove namespaces and links of all others.

        Forwarding entries and published ports stay until the first complete set says what they should be.
        """
        remembered = await self._kernel.call(attachments.recall, self._run_directory)
        keep = {task_id: task for task_id, task in remembered.items() if task_id in task_ids}
        for task_id in list(self._servers):
            if task_id in task_ids:
                keep.pop(task_id, None)
            else:
                await self.detach(task_id)
        reopened = await self._kernel.call(self._segments.take_over, keep, set(self._servers))
        if self._linger:
            await self._kernel.call(self._segments.make_ready)
        await self._publisher.adopt(await self._kernel.call(self._segments.ways_in))
        for task_id, listening in reopened.items():
            self._serve(keep[task_id], listening)
            self._publisher.hold_again(keep[task_id])
            try:
                await self._balancer.adopt(task_id)
                await self._proxies.add(keep[task_id])
            except (OverlayError, OSError) as error:
                log.warning("task %s: its addresses and ports cannot be served again: %s", task_id, error)
        self._programmer.touch(self._wanted.in_use())

    async def leave(self) -> None:
        """The node is in no cluster (any longer): networks that are here without a task go too."""
        await self._programmer.hold_none()
        await self._kernel.call(lambda: self._segments.tidy(at_once=True))

    async def _tidy(self) -> None:
        """Take networks away that nobody has been on for a while, as long as the worker runs."""
        while self._linger:
            await asyncio.sleep(self._linger / 2)
            try:
                await self._kernel.call(self._segments.tidy)
            except (OverlayError, OSError) as error:
                log.warning("a network that nobody is on is not removed: %s", error)

    async def _build(self, task: Task) -> tuple[Task, Sockets]:
        """The task's namespace, with its ports held; returns the task as it is to be remembered."""
        plans = attachments.plan(task, self._model.networks, self._underlay)
        networks = {one.network_id: self._model.networks[one.network_id] for one in plans}
        forwardings = {network_id: self._wanted.forwarding(network_id) for network_id in networks}
        ports = self._publisher.hold_ports(task, attachments.reached_from_outside(plans))
        kept = attachments.memory(task, ports)
        try:
            await self.encryption.program({*networks, *self._wanted.in_use()})
            sockets = await self._kernel.call(self._segments.attach, kept, plans, networks, forwardings)
            try:
                await self._balancer.add(task.id, self._wanted.balance(networks))
                await self._proxies.add(kept)
            except BaseException:
                await self._proxies.remove(task.id)
                sockets.close()
                await self._kernel.call(self._segments.detach, task.id)
                raise
        except BaseException:
            self._publisher.release_ports(task.id)
            raise
        return kept, sockets

    def _serve(self, task: Task, sockets: Sockets) -> None:
        self._tasks[task.id] = task
        # (It would ask itself.)
        nameservers = [one for one in task.spec.container.dns.nameservers if one != ADDRESS]
        self._servers[task.id] = Server(
            sockets,
            networks=[attachment.network_id for attachment in task.networks],
            nameservers=nameservers,
            resolver=self._resolver,
            upstream=Upstream(self._opener(task.id)) if nameservers else self._upstream,
            host=self._host,
        )

    def _opener(self, task_id: str) -> Open:
        """Makes sockets in a task's namespace: its own name servers may be on its networks."""

        async def opened(family: int, kind: int) -> socket.socket:
            namespace = task_namespace(self._run_directory, task_id)
            return await self._threads.inside(namespace, lambda: make_socket(family, kind))

        return opened

    def _sandbox(self, task: Task) -> Sandbox:
        dns = task.spec.container.dns
        host = self._host.read()
        search = " ".join(dns.search or host.search)
        options = list(dns.options or host.options)
        if not any(one.startswith("ndots:") for one in options):
            # Names of services have no dot: they are asked for as they are, before any search domain.
            options.append("ndots:0")
        lines = [f"nameserver {ADDRESS}", *([f"search {search}"] if search else []), f"options {' '.join(options)}"]
        hosts = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
        hostname = task.spec.container.hostname
        if hostname and "{{" not in hostname and task.networks and task.networks[0].addresses:
            hosts += [f"{address.partition('/')[0]} {hostname}" for address in task.networks[0].addresses]
        return Sandbox(
            netns=task_namespace(self._run_directory, task.id),
            resolv_conf="\n".join(lines) + "\n",
            hosts=(*hosts, *task.spec.container.hosts),
            ports=tuple(self._tasks[task.id].endpoint.ports) if task.id in self._tasks else (),
        )

    def _find_underlay(self) -> Underlay:
        """On the kernel thread."""
        with RouteSocket() as routes:
            mtu = routes.mtu_of_address(self._local_address)
        if mtu is None:
            log.warning("no interface has %s: VXLAN assumes an MTU of %d", self._local_address, _USUAL_MTU)
        mtu = mtu or _USUAL_MTU
        return Underlay(open_home(), self._local_address, self._vxlan_port, mtu, namespaces.has_ipv6())


def _refuse_nobody() -> None:
    """On a thread in the namespace of a task that is about to stop. Rules take milliseconds: most listen to nobody."""
    # Ours is the one that names are asked for through.
    if sockets.are_listening(own=1):
        libnftables.load(firewall.closing_rules())
