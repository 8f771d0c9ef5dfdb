"""The assignments' stream put together: whole complete sets, gaps noticed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from flota.v1.dispatcher_pb2 import AssignmentChange, AssignmentsMessage


class Gap(Exception):
    """Something was missed: only a new complete set tells what is so."""


@dataclass(frozen=True)
class Assigned:
    """Changes to take over. `complete`: whatever is not among them is not wanted any longer."""

    changes: Sequence[AssignmentChange]
    complete: bool


class Assembly:
    """One stream, from its first message on."""

    def __init__(self) -> None:
        self._at: int | None = None
        self._parts: list[AssignmentChange] | None = []

    def take(self, message: AssignmentsMessage) -> Assigned | None:
        """What there is to take over now; None when a complete set goes on in the next message. Raises Gap."""
        if self._at is not None and message.applies_to != self._at:
            raise Gap(f"an assignment builds on {message.applies_to}, and this node is at {self._at}")
        complete = message.type == AssignmentsMessage.TYPE_COMPLETE
        if not complete and self._parts is not None:
            raise Gap("assignments begin with a complete set")
        self._at = message.results_in
        if not complete:
            return Assigned(message.changes, complete=False)
        if self._parts is None:
            self._parts = []
        if message.more:
            self._parts.extend(message.changes)
            return None
        changes: Sequence[AssignmentChange] = [*self._parts, *message.changes] if self._parts else message.changes
        self._parts = None
        return Assigned(changes, complete=True)
