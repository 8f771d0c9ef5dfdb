"""The dispatcher's state and loops for one term of leadership. Nothing in it outlives the term.

One watch on the store feeds everything: `Assignments` (and through it the outboxes of connected workers), presence
(nodes that come and go) and the sessions' own streams. Handlers of calls read and change this state between awaits, so
they need no locks; what has to be durable goes through the two writers.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from random import Random

import structlog

from flota.manager.clock import Clock
from flota.manager.dispatcher import orphans
from flota.manager.dispatcher.assignments import Assignments, Key, Urgency
from flota.manager.dispatcher.metrics import REGISTRATIONS, SESSIONS
from flota.manager.dispatcher.node_writer import NodeWriter, State, Wish
from flota.manager.dispatcher.outbox import Outbox, gap
from flota.manager.dispatcher.pace import Pace
from flota.manager.dispatcher.places import take_place
from flota.manager.dispatcher.presence import Presence
from flota.manager.dispatcher.session import Session
from flota.manager.dispatcher.status import StatusWriter, Update
from flota.manager.dispatcher.withdrawals import Withdrawals
from flota.manager.store import Event, Store, WatchClosed, Watcher
from flota.rpc.callers import Caller
from flota.rpc.errors import FailedPrecondition, FlotaError, NotFound, Unavailable
from flota.v1.dispatcher_pb2 import AssignmentsMessage, AttachNetworkRequest, SessionMessage, SessionRequest
from flota.v1.objects_pb2 import Cluster, Node, NodeDescription, NodeUsage, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import NodeState, Peer

_log = structlog.get_logger("dispatcher")
# Seconds; only for clusters whose spec does not say.
DEFAULT_PERIOD = 1.0
# The group of managers is no object of the store, so it is looked at so often (seconds). A worker that knows only one
# manager, because the others have just joined, is lost when that one is.
_LOOK_AT_MANAGERS = 0.1
# Seconds by which a timer is late when this process has had no processor, and not just something else to do.
_STOOD_STILL = 0.1
# Pairs of an event and a node that hears of it, between two rounds of the event loop; some 5 ms of work.
_TOUCHES_AT_ONCE = 8_000
_WORDS = ("task", "node", "service", "network", "secret", "config", "cluster")


class Term:
    """See the module's docstring. `run` it; whatever way that ends, call `end`."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        rng: Random,
        managers: Callable[[], list[Peer]],
        root_ca: Callable[[], bytes],
        own_node_id: str,
    ) -> None:
        self._store, self._clock = store, clock
        self._ask_managers, self._ask_root_ca = managers, root_ca
        self._time = asyncio.get_running_loop().time
        self._nodes = NodeWriter(store, clock)
        self._statuses = StatusWriter(store, clock, own_node_id)
        self._presence = Presence(rng, self._moved)
        # How full each node is, as its last heartbeat said.
        self.usage: dict[str, NodeUsage] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._withdrawals = Withdrawals(self._stop_task)
        self._pace = Pace()
        self._managers = managers()
        self._root_ca = root_ca()
        self._error: FlotaError | None = None
        self._open_watch()

    def _open_watch(self) -> None:
        """Take everything as it is now; no await in between, so nothing is missed or taken twice."""
        self._changes: Watcher = self._store.watch(*_WORDS)
        self._events: deque[Event] = deque()
        self._set_period()
        self._assignments = Assignments(self._store, self._touch)
        for node in self._store.nodes:
            if node.status.state != NodeState.NODE_STATE_DOWN:
                self._expect(node.id)

    def end(self, error: FlotaError) -> None:
        """End all streams and calls with `error`."""
        self._error = error
        self._withdrawals.end()
        self._changes.__exit__(None, None, None)
        self._nodes.end(error)
        self._statuses.end(error)
        for session in self._presence.sessions():
            session.end(error)
        SESSIONS.set_function(lambda: 0.0)

    async def run(self) -> None:
        """Runs until cancelled."""
        # Counted when somebody asks: a thousand workers that come back at once are not to count each other.
        SESSIONS.set_function(lambda: float(self._presence.ready))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="dispatcher: store")
            group.create_task(self._watch_presence(), name="dispatcher: presence")
            group.create_task(self._watch_managers(), name="dispatcher: managers")
            group.create_task(self._nodes.run(), name="dispatcher: nodes")
            group.create_task(self._statuses.run(), name="dispatcher: status")
            group.create_task(orphans.run(self._store, self._clock), name="dispatcher: orphans")

    # Calls.

    def open_session(self, caller: Caller, request: SessionRequest) -> Session:
        """Register the caller. Raises NotFound, ResourceExhausted."""
        node = self._store.nodes.get(caller.node_id)
        if node is None:
            raise NotFound(f"node {caller.node_id} is not part of this cluster (any longer)")
        self._look_at_managers()
        session, replaced = self._presence.open(node.id, request.session_id, self._time())
        if replaced is not None:
            if replaced.id == session.id and replaced.outbox is not None:
                session.outbox, replaced.outbox = replaced.outbox, None
            replaced.end(FailedPrecondition("another session of this node took this one's place"))
        description = request.description if request.HasField("description") else None
        self._nodes.want(node.id, Wish(NodeState.NODE_STATE_READY, "", description, _address_of(caller, node) or None))
        REGISTRATIONS.inc()
        return session

    async def session_messages(self, session: Session) -> AsyncIterator[SessionMessage]:
        """The session's stream. Raises what the session is ended with."""
        await self._nodes.written(session.node_id)
        sent: SessionMessage | None = None
        while session.is_open():
            node = self._store.nodes.get(session.node_id)
            if node is not None and (sent is None or self._is_news(sent, node)):
                sent = SessionMessage(session_id=session.id, node=node, managers=self._managers, root_ca=self._root_ca)
                yield sent
                session.managers = list(sent.managers)
            await session.poked()

    def knows_managers(self, node_id: str) -> bool:
        """Whether the node's worker was told of the managers there are now; False without a session."""
        self._look_at_managers()
        session = self._presence.current(node_id)
        return session is not None and session.managers == self._managers

    def close_session(self, session: Session) -> None:
        """Its stream is over, whoever ended it."""
        if self._error is None:
            self._presence.detach(session)

    def end_session(self, node_id: str, session_id: str) -> None:
        """The node says goodbye. Raises FailedPrecondition."""
        session = self._presence.session(node_id, session_id)
        self._presence.goodbye(session)
        session.end(None)

    def heartbeat(
        self,
        node_id: str,
        session_id: str,
        description: NodeDescription | None = None,
        usage: NodeUsage | None = None,
    ) -> float:
        """Seconds until the next one is due; `description`: what is new of the machine. Raises FailedPrecondition."""
        period = self._presence.heartbeat(node_id, session_id, self._time())
        if usage is not None:
            self.usage[node_id] = usage
        if description is not None:
            self._nodes.want(node_id, Wish(NodeState.NODE_STATE_READY, "", description))
        return period

    def own_task(self, node_id: str, session_id: str, task_id: str) -> Task:
        """A task of the node. Raises FailedPrecondition, NotFound."""
        self._presence.session(node_id, session_id)
        task = self._store.tasks.get(task_id)
        if task is None or task.node_id != node_id:
            raise NotFound(f"node {node_id} has no task {task_id}")
        return task

    async def take_place(self, node_id: str, request: AttachNetworkRequest) -> Task:
        """A place on a network for a container of the node. Raises FailedPrecondition, NotFound, Unavailable."""
        self._presence.session(node_id, request.session_id)
        return await self._store.update(lambda tx: take_place(tx, request, node_id, self._clock.now()))

    async def assignment_messages(self, node_id: str, session_id: str) -> AsyncIterator[AssignmentsMessage]:
        """The assignments' stream. Raises FailedPrecondition, and what the session is ended with."""
        session = self._presence.session(node_id, session_id)
        self._catch_up()
        outbox = Outbox(node_id, self._assignments, self._pace)
        session.attach(outbox)
        # What an earlier stream was asked to confirm is in the complete set that this one begins with.
        self._withdrawals.forget(node_id)
        self._outboxes[node_id] = outbox
        try:
            async for message in outbox.messages():
                yield message
        finally:
            if self._outboxes.get(node_id) is outbox:
                del self._outboxes[node_id]
                self._withdrawals.forget(node_id)
            if session.outbox is outbox:
                session.outbox = None

    def confirm_assignments(self, node_id: str, session_id: str, sequence: int) -> None:
        """What the node was told is in force. Raises FailedPrecondition."""
        self._presence.session(node_id, session_id)
        outbox = self._outboxes.get(node_id)
        if outbox is not None:
            self._withdrawals.confirmed(node_id, outbox.confirm(sequence))

    async def update_status(self, node_id: str, session_id: str, updates: Sequence[Update]) -> None:
        """Returns when it is committed. Raises FailedPrecondition, and what StatusWriter.submit raises."""
        self._presence.session(node_id, session_id)
        await self._statuses.submit(node_id, updates)

    # Loops.

    async def _follow(self) -> None:
        while True:
            try:
                async for events in self._changes:
                    self._events.extend(events)
                    while self._events:
                        # A full transaction may concern every node: the loop has other things to do in between.
                        self._note(_TOUCHES_AT_ONCE // (len(self._outboxes) + 1) + 1)
                        await asyncio.sleep(0)
            except WatchClosed:
                # A leader's store is not replaced; should it be, everything is read anew and told anew.
                for session in self._presence.sessions():
                    if session.outbox is not None:
                        session.outbox.end(Unavailable("the manager's store was replaced: open the stream again"))
                self._open_watch()

    def _catch_up(self) -> None:
        """Be up to date with the store now."""
        self._events.extend(self._changes.drain())
        self._note(len(self._events))

    def _note(self, count: int) -> None:
        """Take over so many of the events that wait, in their order."""
        events = [self._events.popleft() for _ in range(min(count, len(self._events)))]
        self._assignments.note(events)
        for event in events:
            if isinstance(event.object, Node):
                self._note_node(event.object, event)
            elif isinstance(event.object, Cluster):
                self._set_period()
                self._look_at_managers()

    def _note_node(self, node: Node, event: Event) -> None:
        if event.kind == StoreAction.KIND_REMOVE:
            session = self._presence.forget(node.id)
            if session is not None:
                session.end(NotFound(f"node {node.id} was removed from this cluster"))
            return
        if event.kind == StoreAction.KIND_CREATE:
            self._expect(node.id)
        elif (session := self._presence.current(node.id)) is not None:
            session.poke()

    async def _watch_presence(self) -> None:
        while True:
            period = self._presence.period
            alarm = self._presence.next_alarm()
            wanted = min(self._time() + period / 2, alarm if alarm is not None else float("inf"))
            await asyncio.sleep(max(0.0, wanted - self._time()))
            now = self._time()
            if (late := now - wanted) > _STOOD_STILL:
                if late > period / 2:
                    _log.warning("this process stood still: nodes get more time", seconds=round(late, 2))
                self._presence.postpone(late, now)
            for session in self._presence.expire(now):
                session.end(FailedPrecondition("the session ran out: its heartbeats failed to come"))

    async def _watch_managers(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AT_MANAGERS)
            self._look_at_managers()

    def _look_at_managers(self) -> None:
        managers, root_ca = self._ask_managers(), self._ask_root_ca()
        if managers != self._managers or root_ca != self._root_ca:
            self._managers, self._root_ca = managers, root_ca
            for session in self._presence.sessions():
                session.poke()

    # What follows from it.

    def _expect(self, node_id: str) -> None:
        if self._presence.expect(node_id, self._time()):
            self._nodes.want(node_id, Wish(NodeState.NODE_STATE_UNKNOWN, "not heard of since the leader changed"))

    def _moved(self, node_id: str, state: State, reason: str) -> None:
        self._nodes.want(node_id, Wish(state, reason))

    def _touch(self, nodes: Collection[str], keys: Iterable[Key], urgency: Urgency) -> None:
        if not self._outboxes:
            return
        if urgency is Urgency.STOP:
            for _, task_id in keys:
                self._withdraw(task_id)
            return
        outboxes = [outbox for node_id in nodes if (outbox := self._outboxes.get(node_id)) is not None]
        if outboxes:
            pause = gap(urgency, len(nodes))
            for key in keys:
                for outbox in outboxes:
                    outbox.touch(key, pause)

    def _withdraw(self, task_id: str) -> None:
        """Have all that send to a task confirm that they no longer do (they were just touched); then it may stop."""
        asked = []
        for node_id, keys in self._assignments.senders(task_id).items():
            outbox = self._outboxes.get(node_id)
            if outbox is not None:
                outbox.ask(keys)
                asked.append(node_id)
        self._withdrawals.hold(task_id, asked)

    def _stop_task(self, task_id: str) -> None:
        task = self._store.tasks.get(task_id)
        if task is not None:
            self._touch((task.node_id,), (("task", task_id),), Urgency.OWN)

    def _set_period(self) -> None:
        cluster = self._store.cluster
        period = 0.0
        if cluster is not None and cluster.spec.dispatcher.HasField("heartbeat_period"):
            period = cluster.spec.dispatcher.heartbeat_period.ToTimedelta().total_seconds()
        self._presence.asked_period = period or DEFAULT_PERIOD

    def _is_news(self, sent: SessionMessage, node: Node) -> bool:
        """Whether the worker cares about the difference (not about its own state, say)."""
        known = sent.node
        return (
            known.spec != node.spec
            or known.role != node.role
            or known.certificate != node.certificate
            or list(sent.managers) != self._managers
            or sent.root_ca != self._root_ca
        )


def _address_of(caller: Caller, node: Node) -> str:
    """Where managers see the node; a manager's own worker may come in over loopback, which tells nobody anything."""
    address = caller.address
    if address.startswith("127.") or address in ("", "::1"):
        return node.manager_status.address.rpartition(":")[0].strip("[]") or address
    return address
