"""Labs for tests: `make_lab` for one's own, `lab` for a swarm of 3 + 2 that tests of one xdist worker share.

A test that uses `lab` leaves services, partitions and dead nodes as it likes: all is put right before the next one.
Tests that share it carry `pytest.mark.xdist_group("lab")`, so that it is booted once.
"""

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from flota.node.lab import Lab
from tests.cluster.swarm import Swarm

_numbers = itertools.count(1)


def lab_name() -> str:
    """A name no other test has now."""
    return f"t{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Make labs with the arguments of Lab.up but for the name; they are removed after the test."""
    made: list[Lab] = []

    def make(managers: int = 1, workers: int = 0, **options: object) -> Lab:
        made.append(Lab.up(lab_name(), managers, workers, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.down()


@pytest.fixture(scope="session")
def _shared_lab() -> Iterator[Lab]:
    with Lab.up(lab_name(), managers=3, workers=2) as lab:
        yield lab


@pytest.fixture
def lab(_shared_lab: Lab) -> Lab:
    """A swarm of three managers and two workers, all READY, with nothing on it."""
    with Swarm(_shared_lab) as swarm:
        swarm.make_clean()
    return _shared_lab


@pytest.fixture
def swarm(lab: Lab) -> Iterator[Swarm]:
    """The same, with its API."""
    with Swarm(lab) as swarm:
        yield swarm
