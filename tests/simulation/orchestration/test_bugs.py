"""The checks can fail: every seeded bug is caught, by a storm's rules or by what a configuration promises."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.simulation.orchestration.bugs import BUDGETS, STORMS
from tests.simulation.orchestration.test_budget import story
from tests.simulation.orchestration.test_chaos import storm
from tests.simulation.virtual_time import run

# Where the search begins, so that it need not be long.
FIRST = {
    "ForgetsReservedCpu": 3,
    "ForgetsGenericResources": 4,
    "ForgetsConstraints": 1,
    "NeverEvicts": 1,
    "ForgetsWhatConsensusRefused": 3,
    "MovesStopFirst": 7,
    "AnUpdateForgetsTheOneBefore": 11,
}
SEEDS = 25


def first_seed_that_fails(world: Callable[[int], Coroutine[Any, Any, None]], first: int) -> int | None:
    for seed in range(first, first + SEEDS):
        try:
            run(world(seed))
        except (AssertionError, ExceptionGroup):
            return seed
    return None


@pytest.mark.parametrize("bug", STORMS)
def test_a_storm_finds_the_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name, other in STORMS[bug]():
        monkeypatch.setattr(where, name, other)
    assert first_seed_that_fails(storm, FIRST.get(bug, 0)) is not None, f"no seed showed {bug}"


@pytest.mark.parametrize("bug", BUDGETS)
def test_what_is_promised_is_broken_by_the_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name, other in BUDGETS[bug]():
        monkeypatch.setattr(where, name, other)
    assert first_seed_that_fails(story, FIRST.get(bug, 0)) is not None, f"no seed showed {bug}"
