"""A cluster that has begun, for every test of the control API."""

import pytest

from tests.unit.control.cluster import Cluster


@pytest.fixture
async def cluster() -> Cluster:
    """The swarm's first node, m1, is its only one."""
    made = Cluster()
    await made.begin()
    return made
