"""Who is there: sessions, heartbeats, and the state of a node that follows from them. Pure; times are parameters.

    UNKNOWN        not heard of since this leader took over (or ever); DOWN after a longer grace
    READY          has a session and sends heartbeats
    DISCONNECTED   its session's stream broke; it may come back until its heartbeats have run out
    DOWN           its heartbeats have run out, or it said goodbye

The longer grace is what keeps a change of leader from moving every task of the cluster. Only changes of state are told
(`changed`); a heartbeat moves a deadline in memory and nothing else. Semantics: SwarmKit's manager/dispatcher.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from flota.manager.dispatcher.session import Session
from flota.rpc.errors import FailedPrecondition, ResourceExhausted
from flota.v1.ids import new_id
from flota.v1.types_pb2 import NodeState

State: TypeAlias = "NodeState.ValueType"

# Heartbeats that may be missed; for a node that this leader never heard of, twice as many.
GRACE = 3
UNKNOWN_GRACE = 2 * GRACE
# Seconds between any two nodes' heartbeats, at least: 250 a second are an eighth of a core, and enough.
SPACING = 0.004
# Part of the period by which a node's next heartbeat is asked for earlier or later than the others'.
JITTER = 0.1
# A node may open so many sessions within so many seconds.
SESSIONS_PER_WINDOW = 10
WINDOW = 8.0


@dataclass(slots=True)
class _Node:
    state: State
    deadline: float
    # When the heap looks at it next; at most `deadline`.
    alarm: float
    session: Session | None = None
    opened: deque[float] | None = None


class Presence:
    """All nodes of the cluster. `changed(node_id, state, reason)` hears of every change of state."""

    def __init__(self, rng: Random, changed: Callable[[str, State, str], None]) -> None:
        self.asked_period = 1.0
        self._rng = rng
        self._changed = changed
        self._nodes: dict[str, _Node] = {}
        self._alarms: list[tuple[float, str]] = []

    @property
    def period(self) -> float:
        """Seconds between heartbeats of one node: as asked for, and longer in a big cluster."""
        return max(self.asked_period, SPACING * len(self._nodes))

    def expect(self, node_id: str, now: float) -> bool:
        """A node that is not known to be down has time to open a session. False for one that we know of already."""
        if node_id in self._nodes:
            return False
        self._put(node_id, _Node(NodeState.NODE_STATE_UNKNOWN, 0.0, 0.0), now + UNKNOWN_GRACE * self.period)
        return True

    def forget(self, node_id: str) -> Session | None:
        """The node was removed from the cluster; gives back the session it still had."""
        node = self._nodes.pop(node_id, None)
        return node.session if node is not None else None

    def state(self, node_id: str) -> State:
        """DOWN for nodes nobody expects."""
        node = self._nodes.get(node_id)
        return node.state if node is not None else NodeState.NODE_STATE_DOWN

    @property
    def ready(self) -> int:
        """How many nodes are READY."""
        return sum(node.state == NodeState.NODE_STATE_READY for node in self._nodes.values())

    def current(self, node_id: str) -> Session | None:
        """The node's session, if it has one."""
        node = self._nodes.get(node_id)
        return node.session if node is not None else None

    def session(self, node_id: str, session_id: str) -> Session:
        """The node's session, if it is that one. Raises FailedPrecondition."""
        node = self._nodes.get(node_id)
        if node is None or node.session is None or node.session.id != session_id:
            raise FailedPrecondition(f"session {session_id!r} of node {node_id} is over: open a new one")
        return node.session

    def sessions(self) -> list[Session]:
        """All open sessions, also those whose stream broke."""
        return [node.session for node in self._nodes.values() if node.session is not None]

    def open(self, node_id: str, session_id: str, now: float) -> tuple[Session, Session | None]:
        """The node opens a session, or resumes the one it names; gives back the session, and the one it replaces.

        Raises ResourceExhausted when it does so too often.
        """
        node = self._nodes.get(node_id) or _Node(NodeState.NODE_STATE_DOWN, 0.0, 0.0)
        opened = node.opened = node.opened if node.opened is not None else deque()
        while opened and opened[0] <= now - WINDOW:
            opened.popleft()
        if len(opened) >= SESSIONS_PER_WINDOW:
            raise ResourceExhausted(
                f"node {node_id} opened {len(opened)} sessions within {WINDOW:g} s, no more are allowed: "
                f"try again in {opened[0] + WINDOW - now:.1f} s"
            )
        opened.append(now)
        replaced = node.session
        node.session = Session(node_id, session_id if _resumes(replaced, session_id) else new_id(self._rng))
        self._put(node_id, node, now + GRACE * self.period)
        self._move(node_id, node, NodeState.NODE_STATE_READY, "")
        return node.session, replaced

    def heartbeat(self, node_id: str, session_id: str, now: float) -> float:
        """Seconds until its next one is due. Raises FailedPrecondition for a session that is over or has no stream."""
        session = self.session(node_id, session_id)
        node = self._nodes[node_id]
        if node.state != NodeState.NODE_STATE_READY:
            raise FailedPrecondition(f"session {session.id!r} of node {node_id} has lost its stream: open a new one")
        period = self.period * self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._put(node_id, node, now + GRACE * period)
        return period

    def detach(self, session: Session) -> None:
        """The session's stream broke."""
        node = self._nodes.get(session.node_id)
        if node is not None and node.session is session and node.state == NodeState.NODE_STATE_READY:
            self._move(session.node_id, node, NodeState.NODE_STATE_DISCONNECTED, "its connection broke")

    def goodbye(self, session: Session) -> None:
        """The node ends its session for good."""
        self._down(session.node_id, self._nodes[session.node_id], "it said goodbye")

    def expire(self, now: float) -> list[Session]:
        """Nodes whose time is over are DOWN; gives back the sessions they still had."""
        ended = []
        while self._alarms and self._alarms[0][0] <= now:
            at, node_id = heapq.heappop(self._alarms)
            node = self._nodes.get(node_id)
            if node is None or node.alarm != at or node.state == NodeState.NODE_STATE_DOWN:
                continue
            if node.deadline > now:
                self._set_alarm(node_id, node)
                continue
            session = node.session
            self._down(node_id, node, "its heartbeats failed to come")
            if session is not None:
                ended.append(session)
        return ended

    def postpone(self, seconds: float, now: float) -> None:
        """We did not run for so long, and heard nobody: that time does not count, for anybody.

        After more than a moment whoever would be due soon gets another period, too: its heartbeat may have been lost.
        """
        earliest = now + self.period if seconds > self.period / 2 else now
        for node in self._nodes.values():
            node.deadline = max(node.deadline + seconds, earliest)

    def next_alarm(self) -> float | None:
        """When to call `expire` next."""
        return self._alarms[0][0] if self._alarms else None

    def _down(self, node_id: str, node: _Node, reason: str) -> None:
        node.session = None
        self._move(node_id, node, NodeState.NODE_STATE_DOWN, reason)

    def _move(self, node_id: str, node: _Node, state: State, reason: str) -> None:
        if node.state != state:
            node.state = state
            self._changed(node_id, state, reason)

    def _put(self, node_id: str, node: _Node, deadline: float) -> None:
        """A heartbeat is one assignment: an alarm that rings too early is set anew, one that would be late as well."""
        self._nodes[node_id] = node
        node.deadline = deadline
        if not node.alarm or node.state == NodeState.NODE_STATE_DOWN or deadline < node.alarm:
            self._set_alarm(node_id, node)

    def _set_alarm(self, node_id: str, node: _Node) -> None:
        node.alarm = node.deadline
        heapq.heappush(self._alarms, (node.alarm, node_id))


def _resumes(session: Session | None, session_id: str) -> bool:
    return session is not None and bool(session_id) and session.id == session_id
