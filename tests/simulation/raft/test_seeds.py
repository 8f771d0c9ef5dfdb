"""Clusters of 3, 5 and 7 managers live through storms; a failing seed prints the command that replays it."""

import os

import pytest

from tests.simulation.raft.seeds import run_seed

SEEDS, CHUNK = 500, 20
# Seeds beyond those of every run.
SOAK = int(os.environ.get("FLOTA_SEEDS", "2000"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_seed_breaks_consensus(first: int) -> None:
    answered = 0
    for seed in range(first, first + CHUNK):
        answered += sum(one.result is not None for one in run_seed(seed).history)
    # Were nobody answered, nothing would have been checked.
    assert answered > 10 * CHUNK


@pytest.mark.soak
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + SOAK, 10 * CHUNK))
def test_no_seed_of_a_long_soak_breaks_consensus(first: int) -> None:
    for seed in range(first, min(first + 10 * CHUNK, SEEDS + SOAK)):
        run_seed(seed)
