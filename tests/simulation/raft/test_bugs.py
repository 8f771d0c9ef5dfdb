"""The checks can fail: every seeded bug is caught by storms, or by the transcript of the story it is famous for."""

from pathlib import Path

import pytest

from tests.simulation.raft.bugs import BUGS
from tests.simulation.raft.seeds import run_seed
from tests.unit.raft.transcript import rewritten

TRANSCRIPTS = Path(__file__).parents[2] / "unit" / "raft" / "transcripts"
# Where the search begins, so that it need not be long; the storm that catches a bug is somewhere in here.
STORMS: dict[str, range] = {
    # Worlds that are hard on leaders.
    "CountsItselfEarly": range(502, 522, 4),
    "NeverGivesUp": range(530, 550, 4),
    "VotesTwice": range(20),
    "AcknowledgesBeforeItWrites": range(20),
    "ForgetsToWrite": range(20),
    "SkipsTheSync": range(20),
    "ReadsWithoutAsking": range(40),
    "ChangesTwoAtOnce": range(60, 80),
    "CommitsOldTerms": range(20),
    "ForgetsTheOutgoingHalf": range(25, 45),
}
# Some need a rare order of events, which storms seldom make.
STORIES = {
    "CommitsOldTerms": "old_term_is_not_counted.txt",
    "ForgetsTheOutgoingHalf": "joint_add_two.txt",
    "ForgetsItsPromise": "leases.txt",
    "TrustsClocksTooFar": "leases.txt",
    "ReadsWithoutAsking": "read_index_under_partition.txt",
    "AcknowledgesBeforeItWrites": "restarts_at_every_step.txt",
}


def test_every_bug_is_looked_for() -> None:
    assert set(STORMS) | set(STORIES) == set(BUGS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", STORMS)
def test_a_storm_finds_the_bug(bug: str) -> None:
    caught = []
    for seed in STORMS[bug]:
        try:
            run_seed(seed, bug)
        except Exception as error:  # noqa: BLE001 - a damaged log or a failed assertion of the core is caught, too
            caught.append(error)
            break
    assert caught, f"no seed of {STORMS[bug]} showed {bug}"


@pytest.mark.parametrize("bug", STORIES)
def test_the_story_of_the_bug_tells_it_apart(bug: str) -> None:
    text = (TRANSCRIPTS / STORIES[bug]).read_text()
    assert rewritten(text) == text
    try:
        told = rewritten(text, BUGS[bug])
    except AssertionError:
        return
    assert told != text


def test_a_failing_seed_says_how_to_replay_it() -> None:
    with pytest.raises(AssertionError, match=r"replay: python -m tests\.simulation\.raft 0 3 ForgetsToWrite"):
        run_seed(0, "ForgetsToWrite")
