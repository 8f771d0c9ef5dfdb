"""Archives of a container's files that go wrong half way. Needs root."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from flota.rpc.errors import InvalidArgument
from flota.worker.containers import archives


def test_what_still_comes_when_an_archive_has_been_refused_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"\0" * 512
            # The other process says no, and is gone, meanwhile.
            await asyncio.sleep(0.1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(InvalidArgument, match="director"):
        runner.run(archives.write(tmp_path, "/file", parts(), keep_kinds=False))
