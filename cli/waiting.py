"""Waits until services are what was asked for, and shows a person how it goes.

One Watch stream for all of them; nothing is asked again and again. On a terminal a line per task is redrawn in place;
elsewhere only what is new is printed. Ctrl-C ends the wait, never the work.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from flota.cli.convergence import Convergence, Goal, Progress, TaskLine, update_mark
from flota.cli.failures import CommandFailed
from flota.cli.watching import until_true
from flota.stacks.units import NANO, format_duration
from flota.v1.control_pb2 import WatchMessage, WatchRequest
from flota.v1.objects_pb2 import Service, Task
from flota.v1.store_pb2 import StoreAction

if TYPE_CHECKING:
    from flota.cli.session import Session

_MOST_BARS = 20
_BAR = 30
_REDRAW_SECONDS = 0.1
# A global service without any task by then has no node that fits.
_NO_NODE_SECONDS = 3.0


class NotConverged(CommandFailed):
    """A service will not get to where it was asked to be."""


class Waiter:
    """The wait for some services."""

    def __init__(
        self,
        session: Session,
        services: Sequence[Service],
        display: Display,
        rollback_wanted: bool = False,
        goals: Mapping[str, Goal] | None = None,
        standstill: float | None = None,
    ) -> None:
        """`goals` by the services' ids; without one, a service shall be stable.

        The wait is given up when nothing has moved for `standstill` seconds, and for as long as an update under way
        may rightly hold still besides; None = never.
        """
        self._session = session
        self._services = {
            service.id: Convergence(
                service,
                old_update=update_mark(service),
                rollback_wanted=rollback_wanted,
                goal=(goals or {}).get(service.id, Goal.STABLE),
            )
            for service in services
        }
        self._display = display
        self._since: dict[str, float] = {}
        # When services that hold still now will have done so for long enough.
        self._dues: list[float] = []
        self._start = time.monotonic()
        self._standstill = standstill
        # Where everything was when it last moved, and when that was.
        self._picture: object = None
        self._moved = self._start
        # What an update's own delays add to that.
        self._pause = 0.0

    def history(self, tasks: Sequence[Task]) -> None:
        """Tasks of the time before: their failures do not count."""
        for task in tasks:
            if task.service_id in self._services:
                self._services[task.service_id].remember_history([task])

    async def run(self) -> None:
        """Return when all services are stable. Raises NotConverged."""
        try:
            await until_true(self._follow)
        finally:
            self._display.close()

    async def _follow(self, hear: Callable[[], None]) -> bool:
        """Follow one stream; False when it ended before all was stable."""
        async for _ in self._messages():
            hear()
            if self._look():
                return True
        return False

    async def _messages(self) -> AsyncIterator[None]:
        """Yields after every change that matters, and whenever a look at the clock is due."""
        ids = list(self._services)
        request = WatchRequest(
            selectors=[
                WatchRequest.Selector(kind="service", ids=ids),
                WatchRequest.Selector(kind="task", service_ids=ids),
                WatchRequest.Selector(kind="node"),
            ],
            include_existing=True,
        )
        stream = self._session.control.Watch(request)
        for convergence in self._services.values():
            convergence.tasks.clear()
        reading: asyncio.Future[object] = asyncio.ensure_future(stream.read())
        complete = False
        there: set[str] = set()
        try:
            while True:
                await asyncio.wait([reading], timeout=self._patience())
                while reading.done():
                    message = reading.result()
                    if not isinstance(message, WatchMessage):
                        return  # The stream's end.
                    there.add(message.object.service.id)
                    if message.kind == StoreAction.KIND_UNSPECIFIED:
                        complete = True
                        self._check_removed(there)
                    self._apply(message)
                    reading = asyncio.ensure_future(stream.read())
                    await asyncio.sleep(0)
                if complete:
                    yield
        finally:
            reading.cancel()
            stream.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await reading

    def _check_removed(self, there: set[str]) -> None:
        """Raise NotConverged when a service was removed before the stream began."""
        for service_id, convergence in self._services.items():
            if service_id not in there:
                raise NotConverged(f"service {convergence.service.spec.annotations.name} was removed")

    def _patience(self) -> float | None:
        """Seconds until something may be true without any news."""
        now = time.monotonic()
        # Only of services that were not stable at the last look: a time that has passed would be no wait at all.
        dues = list(self._dues)
        if now < self._start + _NO_NODE_SECONDS:
            dues.append(self._start + _NO_NODE_SECONDS)
        if self._display.due:
            dues.append(now + _REDRAW_SECONDS)
        if self._dues:
            dues.append(now + 1.0)  # The seconds that are left are shown.
        if self._standstill is not None:
            dues.append(max(now + _REDRAW_SECONDS, self._moved + self._standstill + self._pause))
        return max(0.0, min(dues) - now) if dues else None

    def _apply(self, message: WatchMessage) -> None:
        removed = message.kind == StoreAction.KIND_REMOVE
        thing = message.object
        match thing.WhichOneof("kind"):
            case "service" if thing.service.id in self._services:
                if removed:
                    raise NotConverged(f"service {thing.service.spec.annotations.name} was removed")
                self._services[thing.service.id].service = thing.service
            case "task" if thing.task.service_id in self._services:
                self._services[thing.task.service_id].observe_task(thing.task, removed)
            case "node":
                for convergence in self._services.values():
                    convergence.nodes[thing.node.id] = thing.node

    def _look(self) -> bool:
        """Draw where everything is; True when all is stable. Raises NotConverged."""
        now = time.monotonic()
        stable = True
        self._dues.clear()
        for service_id, convergence in self._services.items():
            name = convergence.service.spec.annotations.name
            progress = convergence.progress()
            if progress.failure:
                self._display.show(name, progress, None)
                raise NotConverged(f"service {name} does not converge: {progress.failure}")
            stopped = convergence.service.spec.stopped
            if not progress.converged and not progress.wanted and not stopped and now - self._start > _NO_NODE_SECONDS:
                self._display.note(f"{name}: no node takes its tasks now; they start when one does")
                continue
            if not progress.converged:
                self._since.pop(service_id, None)
                self._display.show(name, progress, None)
                stable = False
                continue
            since = self._since.setdefault(service_id, now)
            left = 0.0 if convergence.is_job else max(0.0, since + convergence.monitor - now)
            self._display.show(name, progress, left)
            if left > 0:
                self._dues.append(now + left)
                stable = False
        if not stable:
            self._check_standstill(now)
        return stable

    def _check_standstill(self, now: float) -> None:
        """Raise NotConverged with what stands still, when that has been so for too long."""
        left = [each for each in self._services.values() if not each.progress().converged]
        picture = [
            (each.service.spec.annotations.name, [(line.place, line.state) for line in each.progress().lines])
            for each in left
        ]
        if picture != self._picture or not left:
            self._picture, self._moved = picture, now
        self._pause = max((each.pause for each in left), default=0.0)
        if self._standstill is not None and now - self._moved >= self._standstill + self._pause:
            reasons = "; ".join(f"service {each.service.spec.annotations.name}: {each.standing()}" for each in left)
            since = format_duration(round(self._standstill * NANO))
            raise NotConverged(f"nothing has moved for {since}, so the wait is over: {reasons}")


class Display:
    """Where progress is shown; this one shows nothing."""

    due = False

    def show(self, name: str, progress: Progress, seconds_left: float | None) -> None:
        """Show where service `name` is; `seconds_left` of the time in which it must stay so, None when not there."""

    def note(self, text: str) -> None:
        """Show a line once."""

    def close(self) -> None:
        """Nothing more comes."""


class PlainDisplay(Display):
    """Lines, each once: for files, pipes and logs."""

    def __init__(self, several: bool) -> None:
        self._several = several
        self._last: dict[str, str] = {}
        self._notes: set[str] = set()

    def show(self, name: str, progress: Progress, seconds_left: float | None) -> None:
        prefix = f"{name}: " if self._several else ""
        if progress.message:
            self.note(prefix + progress.message)
        for line in progress.lines:
            if line.note:
                self.note(f"{prefix}{line.place}/{progress.wanted}: {line.state}: {line.note}")
        self._once(
            name, "progress", f"{prefix}overall progress: {progress.done} out of {progress.wanted} {progress.word}"
        )
        if seconds_left is None:
            self._last.pop(f"{name} verify", None)
        elif seconds_left > 0:
            if f"{name} verify" not in self._last:
                self._once(name, "verify", prefix + waiting_line(seconds_left))
        else:
            self._once(name, "verify", f"{prefix}verify: Service {name} converged")

    def note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            print(text, flush=True)

    def _once(self, name: str, what: str, text: str) -> None:
        if self._last.get(f"{name} {what}") != text:
            self._last[f"{name} {what}"] = text
            print(text, flush=True)


class LiveDisplay(Display):
    """A block of lines at the cursor, redrawn at most ten times a second."""

    def __init__(self, several: bool) -> None:
        self._several = several
        self._blocks: dict[str, list[str]] = {}
        self._notes: list[str] = []
        self._drawn = 0
        self._drawn_at = 0.0
        self.due = False

    def show(self, name: str, progress: Progress, seconds_left: float | None) -> None:
        self._blocks[name] = list(self._lines(name, progress, seconds_left))
        self.due = True
        if time.monotonic() - self._drawn_at >= _REDRAW_SECONDS:
            self._draw()

    def note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            self.due = True

    def close(self) -> None:
        if self.due:
            self._draw()

    def _lines(self, name: str, progress: Progress, left: float | None) -> list[str]:
        prefix = f"{name}: " if self._several else ""
        lines = [prefix + overall_line(progress)]
        if progress.message:
            lines.append(f"{prefix}{progress.message}")
        if not self._several and len(progress.lines) <= _MOST_BARS:
            lines += [bar(line, progress.wanted) for line in progress.lines]
        else:
            lines += [f"{prefix}{line.place}: {line.note}" for line in progress.lines if line.note][:3]
        if left is not None:
            lines.append(prefix + (waiting_line(left) if left > 0 else f"verify: Service {name} converged"))
        return lines

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        lines = [line for block in self._blocks.values() for line in block] + self._notes
        lines = [line[: width - 1] for line in lines[-(height - 1) :]]
        back = f"\x1b[{self._drawn}A" if self._drawn else ""
        sys.stdout.write(back + "".join(f"\r\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        sys.stdout.flush()
        self._drawn, self._drawn_at, self.due = len(lines), time.monotonic(), False


def bar(line: TaskLine, wanted: int) -> str:
    """One task: how far it is, where, and what is wrong."""
    filled = line.tenths * _BAR // 10
    drawn = "=" * filled + (">" if filled < _BAR else "=") + " " * (_BAR - filled)
    place = f"{line.place}/{wanted}" if line.place.isdigit() else line.place
    return f"{place}: {line.state:<10} [{drawn}] {line.node} {line.note}".rstrip()


def overall_line(progress: Progress) -> str:
    """How many of how many."""
    return f"overall progress: {progress.done} out of {progress.wanted} {progress.word}"


def waiting_line(seconds: float) -> str:
    """Docker's words for the time in which tasks must stay up."""
    return f"verify: Waiting {max(1, round(seconds))} seconds to verify that tasks are stable..."


async def wait_for(
    session: Session,
    services: Sequence[Service],
    quiet: bool = False,
    history: Sequence[Task] = (),
    hint: str = "",
    rollback_wanted: bool = False,
    standstill: float | None = None,
) -> None:
    """Wait until `services` are stable, showing how it goes unless `quiet`. Ctrl-C ends the wait, not the work.

    Raises NotConverged with the reason. `hint` is the command that shows how it goes on.
    """
    if not services:
        return
    several = len(services) > 1
    display = Display() if quiet else LiveDisplay(several) if sys.stdout.isatty() else PlainDisplay(several)
    waiter = Waiter(session, services, display, rollback_wanted, standstill=standstill)
    waiter.history(history)
    try:
        await waiter.run()
    except asyncio.CancelledError:
        hint = hint or f"flota service ps {services[0].id}"
        print(f"Operation continuing in background.\nUse `{hint}` to check progress.", flush=True)
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
