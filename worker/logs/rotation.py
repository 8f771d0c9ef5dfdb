"""Rotation: logs that are kept in several files, as Docker's `max-file` says.

conmon replaces a file that is full; here its name is kept, the next one made in advance, the oldest removed (chain).
What is wanted of a log stands in the file `rotation.json` beside conmon's others, for workers that come later.

A small log is arranged at once, a large one when it begins to fill: most never do.
"""

import asyncio
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import structlog
from asyncinotify import Mask

from flota.worker.logs import chain
from flota.worker.logs.changes import Changes

_log = structlog.get_logger("logs")
_FILE = "rotation.json"
_PUT_IN_PLACE = Mask.MOVED_TO | Mask.ONLYDIR
# How often the sizes of large logs are looked at, and what part of the first file may be full by then.
_PERIOD = 1.0
_PART = 4
_SMALL = 16 << 20


@dataclass(frozen=True)
class Rule:
    """How a log is kept."""

    # Bytes of a file; of how many files at most.
    size: int
    files: int
    compress: bool = False

    def write(self, bundle: Path) -> None:
        """For workers that come later. Raises OSError."""
        (bundle / _FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, bundle: Path) -> "Rule | None":
        """None if the log is one file."""
        try:
            return cls(**json.loads((bundle / _FILE).read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None


@dataclass
class _Kept:
    log: Path
    rule: Rule
    # Open as long as it is arranged whenever conmon has put a file in place.
    watched: ExitStack = field(default_factory=ExitStack)
    armed: bool = False


class _Alarm(asyncio.Event):
    """What the watch sets: it says whose."""

    def __init__(self, container_id: str, due: set[str], woken: asyncio.Event) -> None:
        super().__init__()
        self._id, self._due, self._woken = container_id, due, woken

    def set(self) -> None:
        """Its directory has changed."""
        self._due.add(self._id)
        self._woken.set()


class Rotation:
    """All rotated logs of a worker: `start` and `stop` it; all methods on the event loop."""

    def __init__(self) -> None:
        self._changes = Changes(_PUT_IN_PLACE)
        self._kept: dict[str, _Kept] = {}
        self._due: set[str] = set()
        self._woken = asyncio.Event()
        self._full: asyncio.Queue[Path] = asyncio.Queue()
        self._giving_up = threading.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to look after them."""
        self._loop = asyncio.get_running_loop()
        await self._changes.start()
        # Nobody else's work is to come before theirs.
        self._threads = ThreadPoolExecutor(2, "log rotation")
        self._giving_up.clear()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._compress())]

    async def stop(self) -> None:
        """Leave them to conmon, and to the next worker."""
        self._giving_up.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self._kept.values():
            one.watched.close()
        self._kept.clear()
        await self._changes.stop()
        await asyncio.to_thread(self._threads.shutdown)

    def keep(self, container_id: str, log: Path, rule: Rule) -> None:
        """Look after the log of a container that may say something from now on."""
        if container_id in self._kept:
            return
        self._kept[container_id] = one = _Kept(log, rule)
        if rule.size <= _SMALL:
            self._arm(container_id, one)
        # Else somebody has to look at its size.
        self._woken.set()

    async def let_go(self, container_id: str) -> None:
        """Nothing more will be said, or be of interest."""
        one = self._kept.pop(container_id, None)
        if one is not None:
            one.watched.close()
            await self._call(self._finish, one)

    def _arm(self, container_id: str, one: _Kept) -> None:
        one.armed = True
        alarm = _Alarm(container_id, self._due, self._woken)
        one.watched.enter_context(self._changes.watch(one.log.parent, alarm))
        alarm.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PERIOD if any(not one.armed for one in self._kept.values()) else None):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            due, waiting = {*self._due}, [(name, one) for name, one in self._kept.items() if not one.armed]
            self._due.clear()
            for name in due:
                if (kept := self._kept.get(name)) is not None:
                    await self._call(self._arrange, kept)
            if waiting:
                for name in await self._loop.run_in_executor(self._threads, _filling, waiting):
                    if (kept := self._kept.get(name)) is not None and not kept.armed:
                        self._arm(name, kept)

    def _arrange(self, one: _Kept) -> None:
        loose = chain.arrange(one.log, one.rule.files - 1)
        if one.rule.compress:
            for path in loose:
                self._loop.call_soon_threadsafe(self._full.put_nowait, path)

    def _finish(self, one: _Kept) -> None:
        if one.armed:
            chain.finish(one.log)

    async def _call(self, function: Callable[[_Kept], None], one: _Kept) -> None:
        try:
            await self._loop.run_in_executor(self._threads, function, one)
        except FileNotFoundError:
            # Its container is being removed.
            pass
        except OSError as error:
            _log.warning("a log cannot be kept in several files at the moment", log=str(one.log), error=str(error))

    async def _compress(self) -> None:
        while True:
            path = await self._full.get()
            try:
                await self._loop.run_in_executor(self._threads, chain.compress, path, self._giving_up.is_set)
            except OSError as error:
                _log.warning("a full log file could not be compressed", file=str(path), error=str(error))


def _filling(waiting: list[tuple[str, _Kept]]) -> list[str]:
    """Whose first file begins to fill."""
    return [name for name, one in waiting if _size(one.log) * _PART > one.rule.size]


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
