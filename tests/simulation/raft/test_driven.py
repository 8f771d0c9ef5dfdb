"""The real driver lives through storms (driven.py); failing seeds tell their story."""

import os
from pathlib import Path

import pytest

from flota.manager.raft.driver import Driver
from tests.simulation.raft.driven import run_driven

SEEDS = 24
SOAK = int(os.environ.get("FLOTA_SEEDS", "2000")) // 5


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, 6))
def test_no_seed_breaks_the_driver(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 6):
        world = run_driven(seed, tmp_path / str(seed), monkeypatch)
        assert sum(one.result is not None for one in world.history) > 20


def test_the_same_seed_gives_the_same_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stories = [run_driven(3, tmp_path / str(turn), monkeypatch).log for turn in range(2)]
    assert stories[0] == stories[1]


def test_a_driver_that_serves_reads_too_early_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(driver: Driver) -> None:
        waiting, driver._ready_reads = driver._ready_reads, []
        for future in (future for _, futures in waiting for future in futures if not future.done()):
            future.set_result(None)

    def storms() -> None:
        for seed in range(25, 70):
            run_driven(seed, tmp_path / str(seed), monkeypatch)

    monkeypatch.setattr(Driver, "_answer_reads", serve)
    with pytest.raises(AssertionError, match="no order explains what clients saw"):
        storms()


@pytest.mark.soak
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + SOAK, 50))
def test_no_seed_of_a_long_soak_breaks_the_driver(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, min(first + 50, SEEDS + SOAK)):
        run_driven(seed, tmp_path / str(seed), monkeypatch)
