"""What this machine is to its cluster: nothing, a worker, or a manager; and its two children, which follow from that.

Everything that changes it (entering.py, leaving.py, following.py) holds `turn`. The order on disk is what makes each
change whole: node.json is written when a membership is complete and removed before anything of it is, and what stands
beside it without it is swept up at the next start.
"""

import asyncio
import shutil
import socket
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from flota.manager.ca.join import IssuedIdentity
from flota.manager.raft.interface import StorageCorrupt, StorageLocked
from flota.manager.raft.sealing import KeyRing
from flota.manager.raft.storage import Storage
from flota.node import addresses, children
from flota.node import record as records
from flota.node.child import Child, program
from flota.node.gateway import Gateway
from flota.node.locking import LOCKED, Keys, is_sealed
from flota.node.options import DaemonOptions
from flota.node.places import Places
from flota.node.process import predecessor_gone
from flota.rpc.errors import FailedPrecondition, FlotaError
from flota.rpc.identity import Identity
from flota.v1.dispatcher_pb2 import SessionMessage
from flota.v1.local_pb2 import InitRequest, ManagerReport
from flota.v1.process_pb2 import ManagerConfig, NodeRecord, WorkerConfig
from flota.v1.types_pb2 import NodeRole

_log = structlog.get_logger("node")
NO_SWARM = (
    'This node is not a swarm manager. Use "flota swarm init" or "flota swarm join" to connect this node to swarm and '
    "try again."
)
NOT_MANAGER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this "
    "command on a manager node or promote the current node to a manager."
)


@dataclass(frozen=True)
class Programs:
    """Command lines of the children."""

    worker: list[str] = field(default_factory=lambda: program("flota.worker"))
    manager: list[str] = field(default_factory=lambda: program("flota.manager"))
    gateway: list[str] = field(default_factory=lambda: program("flota.gateway"))


@dataclass(frozen=True)
class Founding:
    """What only the first manager is told, and only once."""

    request: InitRequest
    root_key: bytes
    # A StoreSnapshot to begin with, and the index it was taken at.
    restore_file: Path | None = None
    restore_index: int = 0


class Node:
    """See the module's docstring. `start` it, end it with `stop`."""

    def __init__(self, options: DaemonOptions, places: Places, programs: Programs | None = None) -> None:
        programs = programs or Programs()
        self.options = options
        self.places = places
        self.hostname = socket.gethostname()
        self.gateway = Gateway(
            programs.gateway,
            places.docker_socket,
            places.socket,
            options.docker_listen,
            options.docker_tls_directory,
            options.docker_socket,
        )
        self.worker = self._child("worker", programs.worker)
        self.manager = self._child("manager", programs.manager)
        # Both are there, or neither is; complete once the record is on disk, too.
        self.record: NodeRecord | None = None
        self.identity: Identity | None = None
        self.founding: Founding | None = None
        # Why this node cannot take part although it is a member; empty when it can.
        self.trouble = ""
        # The trouble is that a person has to give the unlock key.
        self.locked = False
        # What opens this node's files, and what its manager process says is wrong with it.
        self.keys = Keys()
        self.manager_trouble = ""
        # The certificate's key lay on the disk in clear until now: a new one is to be had.
        self.key_was_shown = False
        self._identity_turn = asyncio.Lock()
        self._kept_locked = False
        # Set while the certificate has run out and no manager gives a new one.
        self.expired = ""
        # What is under way: init, join, leave.
        self.moving = ""
        # What a manager told the worker last.
        self.session: SessionMessage | None = None
        self.turn = asyncio.Lock()
        self._heard = asyncio.Condition()
        self._unfinished: set[asyncio.Task[Any]] = set()

    def _child(self, name: str, argv: list[str]) -> Child:
        return Child(name, argv, self.places.child_socket(name), self.places.child_file(name))

    # Life.

    async def start(self) -> None:
        """Be again what this machine was. Raises CannotStart."""
        for child in (self.worker, self.manager):
            await predecessor_gone(child.name, self.places.child_file(child.name))
        self.record = records.load(self.places.record)
        if self.record is None and Storage.is_of_a_member(self.places.raft):
            # Power went while we joined, and the others may count on us already.
            self.record = records.take_up(self.places.record)
        if self.record is None:
            # Left behind by an init, join or leave that did not come to its end.
            await asyncio.to_thread(records.remove, self.places.record)
            await self.forget_files()
            await self.be_nobody()
            return
        if KeyRing.is_locked(self.places.raft):
            # No worker either: it would take itself for one that left, and remove its containers.
            self.record, self.trouble, self.locked = None, LOCKED, True
            await asyncio.to_thread(_remove_tree, self.places.open_identity)
            _log.warning("this manager is locked: it waits for its unlock key", remedy="flota swarm unlock")
            return
        await self.open_with(await asyncio.to_thread(self._keys_on_disk))

    def _keys_on_disk(self) -> Keys:
        try:
            return Keys.of_directory(self.places.raft)
        except (StorageCorrupt, StorageLocked, OSError) as error:
            # The manager process will say so.
            _log.warning("the keys cannot be read", reason=str(error))
            return Keys()

    async def open_with(self, keys: Keys) -> None:
        """Be what the record says, once `keys` are known. Raises CannotStart."""
        self.keys = keys
        self.trouble, self.locked = "", False
        self.record = records.load(self.places.record)
        try:
            Identity.finish(self.places.identity)
            stored = Identity(self.places.identity)
            key_pem = keys.opened(stored.key_pem)
            Identity.store(self.places.open_identity, stored.certificate_pem, key_pem, stored.root_pem)
            self.identity = Identity(self.places.open_identity)
        except (OSError, ValueError) as error:
            # No worker either, for the reason above.
            self.record = None
            self.trouble = (
                f"the identity in {self.places.identity} cannot be read ({error}): put it back and restart flota, or "
                "run flota swarm leave --force and join again"
            )
            _log.error("this node cannot take part", reason=self.trouble)
            return
        if self.record is not None and await addresses.followed(self.record, addresses.machine_interfaces):
            _log.warning("this node's address has changed", address=self.record.advertise_address)
            try:
                await self.save_record()
            except OSError as error:
                _log.warning("the new address cannot be kept for the next start", reason=str(error))
        await self.worker.insist(self.worker_config)
        await self._follow_role()

    async def stop(self) -> None:
        """End the children; containers stay."""
        for task in self._unfinished:
            task.cancel()
        if self._unfinished:
            await asyncio.wait(self._unfinished)
        await asyncio.gather(self.worker.stop(), self.manager.stop(), self.manager.cool(), self.worker.cool())
        await asyncio.to_thread(_remove_tree, self.places.open_identity)

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` to its end also when our caller gives up; only the end of the daemon cancels it."""
        task = asyncio.create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        await asyncio.shield(task)

    # What it is.

    @property
    def is_member(self) -> bool:
        """Whether the machine is part of a cluster, or about to be."""
        return self.record is not None or bool(self.trouble)

    @property
    def is_manager(self) -> bool:
        """Whether the node's certificate is a manager's."""
        return self.identity is not None and self.identity.is_manager

    def require_manager(self) -> Child:
        """The manager child. Raises FailedPrecondition with Docker's words when this node is none."""
        if self.trouble:
            raise FailedPrecondition(self.trouble)
        if self.record is None:
            raise FailedPrecondition(NO_SWARM)
        if not self.is_manager:
            raise FailedPrecondition(NOT_MANAGER)
        return self.manager

    def require_worker(self) -> Child:
        """The worker child. Raises FailedPrecondition when it waits for the unlock key."""
        if self.locked:
            raise FailedPrecondition(self.trouble)
        return self.worker

    def manager_addresses(self) -> list[str]:
        """Addresses of the cluster's managers; on a manager its own comes first."""
        if self.record is None:
            return []
        known = [peer.address for peer in self.record.managers]
        own = [self.record.advertise_address] if self.is_manager else []
        return list(dict.fromkeys([*own, *known]))

    def other_managers(self) -> list[str]:
        """Addresses of the managers that are not this node; last come those that it joined through."""
        if self.record is None or self.identity is None:
            return []
        known = [peer.address for peer in self.record.managers if peer.node_id != self.identity.node_id]
        return list(dict.fromkeys([*known, *self.record.join_addresses]))

    def worker_config(self) -> WorkerConfig:
        """What the worker is told, as of now."""
        return children.worker_config(self)

    def manager_config(self) -> ManagerConfig:
        """What the manager is told, as of now."""
        return children.manager_config(self)

    # Changes. Whoever calls these holds `turn`, or starts.

    async def take_identity(self, issued: IssuedIdentity) -> None:
        """Be who `issued` says, on disk and here."""
        is_manager = issued.role == NodeRole.NODE_ROLE_MANAGER
        async with self._identity_turn:
            key_pem = await asyncio.to_thread(self.keys.on_disk, issued.key_pem, is_manager)
            for directory, key in ((self.places.identity, key_pem), (self.places.open_identity, issued.key_pem)):
                await asyncio.to_thread(Identity.store, directory, issued.certificate_pem, key, issued.root_pem)
            if self.identity is None:
                self.identity = Identity(self.places.open_identity)
            else:
                self.identity.reload()

    async def hear_manager(self, report: ManagerReport) -> None:
        """Our manager process said something: keep its keys in memory, and the certificate's key on disk as it says."""
        self.manager_trouble = report.trouble
        self.keys = Keys.of_report(report)
        async with self._identity_turn:
            if self.identity is not None:
                await asyncio.to_thread(self._rewrite_key, self.identity)
        async with self._heard:
            self._kept_locked = report.locked
            self._heard.notify_all()

    async def until_kept_locked(self) -> None:
        """Wait until nothing of this manager lies on the disk in clear."""
        async with self._heard:
            await self._heard.wait_for(lambda: self._kept_locked)

    def _rewrite_key(self, identity: Identity) -> None:
        stored = Identity(self.places.identity)
        if self.keys.is_right(stored.key_pem, identity.is_manager):
            return
        key_pem = self.keys.on_disk(identity.key_pem, identity.is_manager)
        Identity.store(self.places.identity, identity.certificate_pem, key_pem, identity.root_pem)
        self.key_was_shown = self.keys.locked and not is_sealed(stored.key_pem)

    async def save_record(self) -> None:
        """Write the record as it is now."""
        assert self.record is not None
        copy = NodeRecord()
        copy.CopyFrom(self.record)
        await asyncio.to_thread(records.store, self.places.record, copy)

    async def trust_root(self, identity: Identity, root_pem: bytes) -> None:
        """Trust another root, of which our certificate is, from now on."""
        same = IssuedIdentity(
            identity.node_id, identity.cluster_id, identity.role, identity.certificate_pem, identity.key_pem, root_pem
        )
        await self.take_identity(same)

    async def renewed(self, issued: IssuedIdentity) -> None:
        """Take over a new certificate, and the role it gives."""
        was_manager = self.is_manager
        await self.take_identity(issued)
        if self.is_manager != was_manager:
            _log.info(
                "this node's role has changed", role=NodeRole.Name(issued.role).removeprefix("NODE_ROLE_").lower()
            )
            await self._follow_role()

    async def _follow_role(self) -> None:
        if self.is_manager:
            await self.manager.insist(self.manager_config)
        else:
            await self.manager.stop()
            await self.manager.cool()
            # A manager that is made one again joins as a new member.
            await asyncio.to_thread(_remove_tree, self.places.raft)
            self.keys, self.manager_trouble = Keys(), ""

    async def be_nobody(self) -> None:
        """Run what a machine without a cluster runs: a worker for its images, and a manager that is ready to begin."""
        await self.worker.insist(self.worker_config)
        await self.worker.until_tried()
        try:
            await self.manager.warm()
        except FlotaError as error:
            _log.warning("no manager process is kept ready", reason=str(error))

    def forget(self) -> None:
        """This machine is in no cluster."""
        self.record = self.identity = self.session = None
        self.trouble = self.expired = self.manager_trouble = ""
        self.locked = self.key_was_shown = self._kept_locked = False
        self.keys = Keys()

    async def forget_files(self) -> None:
        """Remove what is on disk of a membership, beside the record."""
        for directory in (self.places.identity, self.places.open_identity, self.places.raft):
            await asyncio.to_thread(_remove_tree, directory)

    # What the worker hears.

    async def hear(self, message: SessionMessage) -> None:
        """A manager said something over the worker's session."""
        async with self._heard:
            self.session = message
            self._heard.notify_all()

    async def until_in_session(self) -> SessionMessage:
        """Wait until the worker has a session as this node."""
        async with self._heard:
            await self._heard.wait_for(
                lambda: (
                    self.session is not None
                    and self.identity is not None
                    and self.session.node.id == self.identity.node_id
                )
            )
        assert self.session is not None
        return self.session


def _remove_tree(directory: Path) -> None:
    """Remove a directory and all in it, if it is there: under another name first, so that no half of it is found."""
    doomed = directory.with_name(f"{directory.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        directory.rename(doomed)
    except FileNotFoundError:
        return
    records.sync_directory(directory.parent)
    shutil.rmtree(doomed)
