"""A swarm for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.dispatcher.swarm import Swarm


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    async with Swarm(tmp_path).serving() as swarm:
        yield swarm
