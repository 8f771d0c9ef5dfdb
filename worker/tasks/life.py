"""A task's life on its node as a table: where it stands, what is done there, where that leads. No I/O.

    ASSIGNED → ACCEPTED → PREPARING → READY ┊ → STARTING → RUNNING → COMPLETE
                             │              ┊      │          │
                         REJECTED           ┊    FAILED     FAILED         SHUTDOWN from anywhere, when it is wanted

At ┊ it waits until it is wanted RUNNING. What fails before STARTING is REJECTED, from then on FAILED; a fault that may
pass by itself is tried again in place. Semantics: SwarmKit's agent/exec/controller.go and design/task_model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from flota.v1.types_pb2 import TaskState
from flota.worker.runtime.container import Exit

State: TypeAlias = "TaskState.ValueType"

ASSIGNED, ACCEPTED, PREPARING = (
    TaskState.TASK_STATE_ASSIGNED, TaskState.TASK_STATE_ACCEPTED, TaskState.TASK_STATE_PREPARING,
)  # fmt: skip
READY, STARTING, RUNNING = (
    TaskState.TASK_STATE_READY, TaskState.TASK_STATE_STARTING, TaskState.TASK_STATE_RUNNING,
)  # fmt: skip
COMPLETE, SHUTDOWN = TaskState.TASK_STATE_COMPLETE, TaskState.TASK_STATE_SHUTDOWN
FAILED, REJECTED = TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED

# What the managers call a task when it was told to end: it is one of these.
ENDINGS = frozenset({SHUTDOWN, TaskState.TASK_STATE_REMOVE})


class Work(Enum):
    """What there is to do in a state."""

    # Nothing: it is only a mark on the way.
    PASS = auto()
    # Image, network, container.
    PREPARE = auto()
    # Let the program run; with a health check, until it is healthy.
    START = auto()
    # Wait until the program ends.
    WATCH = auto()


@dataclass(frozen=True)
class Step:
    """One line of the table. `wanted` is the desired state from which on it may be taken."""

    work: Work
    leads_to: State
    # For people, once it is done.
    message: str
    failure: State
    wanted: State = READY


LIFE: dict[State, Step] = {
    ASSIGNED: Step(Work.PASS, ACCEPTED, "accepted", REJECTED),
    ACCEPTED: Step(Work.PASS, PREPARING, "preparing", REJECTED),
    PREPARING: Step(Work.PREPARE, READY, "prepared", REJECTED),
    READY: Step(Work.PASS, STARTING, "starting", REJECTED, wanted=RUNNING),
    STARTING: Step(Work.START, RUNNING, "started", FAILED, wanted=RUNNING),
    RUNNING: Step(Work.WATCH, COMPLETE, "finished", FAILED, wanted=RUNNING),
}


def is_over(state: State) -> bool:
    """Whether a task in `state` will never run again."""
    return state > RUNNING


@dataclass(frozen=True)
class Outcome:
    """How a life ended: one of the states beyond RUNNING."""

    state: State
    message: str
    error: str = ""
    exit: Exit | None = None


def outcome_of(exit: Exit) -> Outcome:
    """Of a program that ended by itself."""
    error = exit.describe()
    return Outcome(FAILED, "failed", error, exit) if error else Outcome(COMPLETE, "finished", "", exit)


def resume(state: State, *, container: bool, started: bool) -> State | None:
    """Where a task that was last observed in `state` goes on when its worker starts again.

    `container`: there is one; `started`: its program was let run. None when it cannot go on: the container is lost.
    """
    if is_over(state):
        return state
    if started:
        return max(state, STARTING)
    if container:
        return READY
    # What had not been started can be made anew.
    return min(state, PREPARING) if state < STARTING else None
