"""Labs for tests: `make_lab` for one's own, `lab` for a swarm of 3 + 2 that tests of one xdist worker share.

A test that uses `lab` leaves services, partitions and dead nodes as it likes: all is put right before the next one.
Tests that share it carry `pytest.mark.xdist_group("lab")`, so that it is booted once.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flota.node.lab import Lab
from tests.cluster import evidence
from tests.cluster.labs import lab_up
from tests.cluster.swarm import Swarm

# What is told of one failure is enough; a broken machine has many.
_MOST_SHOWN = 20
_shown = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    evidence.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure's report has with it what the test's machines said, while they are there."""
    global _shown
    report = yield
    if report.failed and _shown < _MOST_SHOWN:
        _shown += 1
        directory = getattr(item, "funcargs", {}).get("tmp_path")
        try:
            report.sections += evidence.gathered(directory if isinstance(directory, Path) else None)
        # The failure itself must come through, whatever else is broken.
        except Exception as error:  # noqa: BLE001
            report.sections.append(("no evidence", repr(error)))
    return report


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Make labs with the arguments of lab_up; they are removed after the test."""
    with ExitStack() as made:

        def make(managers: int = 1, workers: int = 0, **options: object) -> Lab:
            return made.enter_context(lab_up(managers, workers, **options))  # type: ignore[arg-type]

        yield make


@pytest.fixture(scope="session")
def _shared_lab() -> Iterator[Lab]:
    with lab_up(managers=3, workers=2) as lab:
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
