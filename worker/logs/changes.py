"""Who waits for files in a directory to grow, appear or be replaced is woken: one inotify for all of them.

Where the kernel has no more watches to give, they are woken every half second instead.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from asyncinotify import Inotify, Mask, Watch

_log = structlog.get_logger("logs")
ANY = Mask.MODIFY | Mask.CREATE | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.ONLYDIR
_PERIOD = 0.5


class Changes:
    """`start` and `stop` it; all methods on the event loop."""

    def __init__(self, mask: Mask = ANY) -> None:
        """`mask`: which changes of what is in a directory are of interest."""
        self._mask = mask
        self._inotify: Inotify | None = None
        self._reader: asyncio.Task[None] | None = None
        self._watches: dict[Path, Watch | None] = {}
        self._waiting: dict[Path, set[asyncio.Event]] = {}

    async def start(self) -> None:
        """Listen to the kernel."""
        try:
            self._inotify = Inotify()
        except OSError as error:
            self._complain(error)
        self._reader = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Nobody is woken any more."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        if self._inotify is not None:
            self._inotify.close()

    @contextmanager
    def watch(self, directory: Path, event: asyncio.Event) -> Iterator[None]:
        """`event` is set whenever something in the directory has changed, as long as the block lasts."""
        waiting = self._waiting.setdefault(directory, set())
        if not waiting:
            self._watches[directory] = self._add(directory)
        waiting.add(event)
        try:
            yield
        finally:
            waiting.discard(event)
            if not waiting:
                del self._waiting[directory]
                self._remove(self._watches.pop(directory))

    def _add(self, directory: Path) -> Watch | None:
        if self._inotify is None:
            return None
        try:
            return self._inotify.add_watch(directory, self._mask)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._complain(error)
            return None

    def _remove(self, watch: Watch | None) -> None:
        if self._inotify is not None and watch is not None:
            # It is gone already when its directory is.
            with suppress(OSError):
                self._inotify.rm_watch(watch)

    async def _read(self) -> None:
        if self._inotify is None:
            await self._wake_all_for_ever()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake_all_for_ever())
            async for event in self._inotify:
                if event.watch is None:
                    # The kernel's queue was full: nobody knows what was missed.
                    self._wake(*self._waiting)
                else:
                    self._wake(event.watch.path)

    async def _wake_all_for_ever(self) -> None:
        """Those whose directories cannot be watched."""
        while True:
            await asyncio.sleep(_PERIOD)
            self._wake(*(directory for directory, watch in self._watches.items() if watch is None))

    def _wake(self, *directories: Path) -> None:
        for directory in directories:
            for event in self._waiting.get(directory, ()):
                event.set()

    def _complain(self, error: OSError) -> None:
        _log.warning("log files are looked at twice a second, for inotify has no more to give", error=str(error))
