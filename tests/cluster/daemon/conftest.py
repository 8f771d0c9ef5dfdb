"""`daemons`: four machines whose daemons answer, none of them in a cluster."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.daemon.daemons import Daemon


@pytest.fixture
async def make_daemons(tmp_path: Path) -> AsyncIterator[list[Daemon]]:
    made: list[Daemon] = []
    yield made
    await asyncio.gather(*(daemon.end() for daemon in made))


@pytest.fixture
async def one(tmp_path: Path, make_daemons: list[Daemon]) -> Daemon:
    make_daemons.append(Daemon(tmp_path, "one"))
    await make_daemons[0].start()
    return make_daemons[0]


@pytest.fixture
async def daemons(tmp_path: Path, make_daemons: list[Daemon]) -> list[Daemon]:
    make_daemons.extend(Daemon(tmp_path, name) for name in ("a", "b", "c"))
    await asyncio.gather(*(daemon.start() for daemon in make_daemons))
    return make_daemons
