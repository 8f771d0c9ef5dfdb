"""One member of the group as the rest of the manager has it: started, asked to commit and to read, stopped.

standing.py says how it stands, driver.py drives its core.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random, SystemRandom

import structlog

from flota.manager.raft import core, founding, membership
from flota.manager.raft.changes import GroupChanges, MembershipServicer
from flota.manager.raft.core import Config, Raft, Role
from flota.manager.raft.driver import Driver
from flota.manager.raft.interface import NotLeader, ProposalDropped, RaftConfig, RaftError, StateMachine, Stopping
from flota.manager.raft.log import RaftLog
from flota.manager.raft.metrics import RaftMetrics
from flota.manager.raft.storage import Storage
from flota.manager.raft.transport import RaftTransport
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, Member

_log = structlog.get_logger("raft")


class RaftNode(Driver):
    """See the module's docstring. Make it with `open`, end it with `stop`."""

    def __init__(
        self,
        storage: Storage,
        member: Member,
        raft: Raft,
        state_machine: StateMachine,
        transport: RaftTransport,
        config: RaftConfig,
        metrics: RaftMetrics,
    ) -> None:
        super().__init__(storage, member, raft, state_machine, transport, config, metrics)
        self._main: asyncio.Task[None] | None = None
        self.changes = GroupChanges(self)
        self.membership = MembershipServicer()
        self.membership.attach(self.changes)

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        node_id: str,
        address: str,
        state_machine: StateMachine,
        transport: RaftTransport,
        join: str | None = None,
        config: RaftConfig | None = None,
        keks: Sequence[bytes] = (),
        first_index: int = 1,
        force_new_cluster: bool = False,
        random: Random | None = None,
        metrics: RaftMetrics | None = None,
    ) -> "RaftNode":
        """Start the member whose files are in `directory`.

        A new directory begins a group of one, or joins the one of the manager at `join`; the transport's servicer must
        be served by then, because that group calls back. `address` is where others reach us. `keks` may open a
        locked directory. A group of one begins with what the state machine holds, at `first_index`.
        Raises StorageCorrupt, StorageLocked, OSError, and what joining raises (a FlotaError).
        """
        config = config or RaftConfig()
        random = random or SystemRandom()
        storage, loaded = await asyncio.to_thread(Storage.open, directory, keks, config.segment_bytes)
        try:
            member = storage.member()
            if member is None:
                member = Member(raft_id=random.getrandbits(63) | 1, node_id=node_id, address=address)
                if join is None:
                    founding.bootstrap(storage, member, state_machine, loaded, first_index)
                else:
                    answer = await transport.join(join, address)
                    member.raft_id = answer.raft_id
                    loaded.snapshot.conf_state.members.extend(answer.members)
                await asyncio.to_thread(storage.save_member, member)
            elif member.address != address:
                member.address = address
                await asyncio.to_thread(storage.save_member, member)
            if force_new_cluster:
                await asyncio.to_thread(founding.force_new_cluster, storage, member, state_machine, loaded)
            log = RaftLog(loaded.snapshot, loaded.entries, loaded.hard_state.commit)
            if loaded.snapshot.index:
                index = loaded.snapshot.index
                replace = await asyncio.to_thread(lambda: state_machine.reader(storage.state(), index))
                replace()
            conf = ConfState()
            conf.CopyFrom(loaded.snapshot.conf_state)
            ticks = max(2, round(config.election / config.tick))
            core_config = Config(
                election_ticks=ticks,
                heartbeat_ticks=max(1, round(config.heartbeat / config.tick)),
                promises_leases=True,
                max_message_bytes=config.max_message_bytes,
                max_uncommitted_bytes=config.max_uncommitted_bytes,
            )
            raft = Raft(member.raft_id, conf, log, loaded.hard_state, random, core_config)
        except BaseException:
            storage.close()
            raise
        node = cls(storage, member, raft, state_machine, transport, config, metrics or RaftMetrics())
        transport.attach(node)
        transport.set_peers(conf.members)
        if list(conf.voters) == [member.raft_id] and not conf.voters_outgoing:
            raft.campaign()
        node._main = asyncio.create_task(node._run(), name=f"raft {member.raft_id:x}")
        return node

    async def stop(self) -> None:
        """Hand leadership on if we have it, then stop. Nothing that was acknowledged is lost."""
        if self.is_leader and len(self.raft.conf.voters) > 1:
            try:
                await self.transfer_leadership()
            except RaftError as error:
                _log.info("stopping without handing leadership on", reason=str(error))
        await self.crash()

    async def crash(self) -> None:
        """Stop at once, as kill -9 would, but let go of tasks, threads and files."""
        self._stopping = True
        self._hold_nothing()
        self.transport.detach()
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        self._fail_waiting(ProposalDropped("this manager is stopping"))
        await asyncio.to_thread(self._disk.shutdown)
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._carrier.shutdown)
        self._storage.close()
        self._notify()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self.transport.run())
                self._tasks.create_task(self._tick())
                self._tasks.create_task(self._loop())
                self._tasks.create_task(self.changes.run())
        except Exception:
            _log.exception("the Raft driver failed")
            raise
        finally:
            self._tasks = None
            self._fail_waiting(ProposalDropped("this manager is stopping"))

    # What others ask for.

    async def propose(self, data: bytes) -> object:
        """Commit `data`; gives back what the state machine's `apply` returned for it here.

        Raises NotLeader, ProposalDropped (it may still be committed later), NoQuorum, TooMuchInFlight.
        """
        return await self._commit(Entry(type=Entry.TYPE_NORMAL, data=data), None)

    async def propose_conf_change(self, change: ConfChange) -> ConfState:
        """Commit a change of the group; gives back the new configuration. Raises MembershipRefused too."""
        result = await self._commit(Entry(type=Entry.TYPE_CONF_CHANGE), change)
        assert isinstance(result, ConfState)
        return result

    async def _commit(self, entry: Entry, change: ConfChange | None) -> object:
        await self._until(lambda: self.raft.leader or None)
        if self._main is not None and self._main.done():
            raise Stopping("this manager has stopped")
        if self.raft.role is not Role.LEADER or self._disk_trouble:
            raise NotLeader("" if self.raft.role is Role.LEADER else self.leader_address)
        entry.proposal_id = next(self._ids) & (2**64 - 1)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[entry.proposal_id] = (future, time.monotonic())
        try:
            if change is not None:
                self._propose_change(change, entry.proposal_id)
            else:
                self._queue.append(entry)
            self._wake.set()
            return await future
        finally:
            self._waiting.pop(entry.proposal_id, None)

    def _propose_change(self, change: ConfChange, proposal_id: int) -> None:
        try:
            self.raft.propose_conf_change(change, proposal_id)
        except (core.ProposalRefused, membership.MembershipError) as error:
            raise self.changes.refusal(error) from None

    async def read_barrier(self) -> None:
        """Return when the state here is at least as new as everything committed before the call (6.4).

        Raises NoQuorum.
        """
        limit = time.monotonic() + self.config.patience
        while True:
            # A round lost with a message or a leader is asked again.
            pause = min(self._patience_left(limit), self.config.heartbeat * 2)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._reads.append(future)
            self._wake.set()
            done, _ = await asyncio.wait({future}, timeout=pause)
            if done:
                return future.result()
            future.cancel()

    async def transfer_leadership(self, node_id: str | None = None) -> None:
        """Hand leadership to `node_id`, or to the voter that is furthest along. Returns when we no longer lead.

        Raises NotLeader; RaftError when it did not work in time.
        """
        if self.raft.role is not Role.LEADER:
            raise NotLeader(self.leader_address)
        target = self.changes.transferee(node_id)
        term = self.raft.term
        try:
            self.raft.transfer_leadership(target)
        except core.ProposalRefused as error:
            raise RaftError(str(error)) from None
        self._wake.set()
        try:
            async with asyncio.timeout(self.config.election * 2):
                while self.raft.role is Role.LEADER and self.raft.term == term:
                    await self._changed.wait()
        except TimeoutError:
            raise RaftError("leadership could not be handed on in time") from None

    async def remove_member(self, node_id: str) -> None:
        """Take a node out of the group (a node that is no member is fine). Raises MembershipRefused, RaftError."""
        await self.changes.remove(node_id)

    async def leave(self) -> None:
        """Take ourselves out of the group, whoever leads. Raises MembershipRefused, RaftError."""
        if self.raft.role is Role.LEADER and len(self.raft.conf.voters) > 1:
            await self.transfer_leadership()
        await self._until(lambda: self.raft.leader or None)
        if self.raft.role is Role.LEADER:
            await self.changes.remove(self.member.node_id)
        else:
            await self.transport.leave(self.leader_address, self.member.node_id)
