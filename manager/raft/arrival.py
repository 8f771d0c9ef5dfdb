"""A snapshot on its way in: its pieces are written to a draft as they come, never faster than the disk takes them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

import structlog

from flota.manager.raft.snapshots import SnapshotDraft, SnapshotFiles
from flota.v1.raft_pb2 import SnapshotMeta

_log = structlog.get_logger("raft")


class Arrival:
    """A snapshot that another member sends, written to a draft as it comes. Ends with `discard`, if nobody keeps it."""

    def __init__(
        self, meta: SnapshotMeta, files: SnapshotFiles, thread: Executor, refused: Callable[[OSError], None]
    ) -> None:
        """`refused` is told when the disk does not take it."""
        self._meta, self._files, self._thread, self._refused = meta, files, thread, refused
        self._draft: SnapshotDraft | None = None
        self.size = 0

    @property
    def draft(self) -> SnapshotDraft:
        """The file, once something was written."""
        assert self._draft is not None
        return self._draft

    async def write(self, piece: bytes) -> None:
        """Add to it; whoever sends is to wait meanwhile. Raises OSError."""
        self.size += len(piece)
        await self._do(lambda: self._write(piece))

    def _write(self, piece: bytes) -> None:
        if self._draft is None:
            self._draft = self._files.draft(self._meta)
        self._draft.write(piece)

    async def finish(self) -> None:
        """It is whole: have it on the disk. Raises OSError."""
        await self._do(lambda: self.draft.finish())

    async def _do(self, call: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except OSError as error:
            self._refused(error)
            raise

    def discard(self) -> None:
        """It is not wanted. Nobody waits for its file to go; what power leaves of it, the next start removes."""

        def discard() -> None:
            if self._draft is not None:
                self._draft.discard()

        try:
            asyncio.get_running_loop().run_in_executor(self._thread, discard).add_done_callback(_look_at)
        except RuntimeError as error:
            _log.debug("a snapshot that was not wanted is left for the next start", reason=str(error))


def _look_at(discarded: "asyncio.Future[None]") -> None:
    if not discarded.cancelled() and (error := discarded.exception()) is not None:
        _log.warning("a snapshot that was not wanted cannot be removed", reason=str(error))
