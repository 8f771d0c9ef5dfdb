"""The checks can fail: every seeded bug is caught, most of them by storms, one by the story it is famous for."""

import pytest

from flota.manager.raft.core import Config, Raft, Role
from flota.manager.raft.log import RaftLog
from flota.v1.raft_pb2 import ConfState, Entry, RaftMessage, SnapshotMeta
from tests.simulation.raft.bugs import BUGS, CommitsOldTerms
from tests.simulation.raft.seeds import run_seed

# Where the search begins, so that it need not be long; the storm that catches a bug is somewhere in here.
SEEDS = {
    "VotesTwice": range(20),
    "AcknowledgesBeforeItWrites": range(470, 490),
    "ForgetsToWrite": range(20),
    "ForgetsTheOutgoingHalf": range(60),
    "ReadsWithoutAsking": range(40),
    "ChangesTwoAtOnce": range(20),
}


def test_every_bug_is_looked_for() -> None:
    assert set(SEEDS) | {"CommitsOldTerms"} == set(BUGS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", SEEDS)
def test_a_storm_finds_the_bug(bug: str) -> None:
    caught = []
    for seed in SEEDS[bug]:
        try:
            run_seed(seed, bug)
        except Exception as error:  # noqa: BLE001 - a damaged log or a failed assertion of the core is caught, too
            caught.append(error)
            break
    assert caught, f"no seed of {SEEDS[bug]} showed {bug}"


class Five:
    """Five members whose messages are delivered by hand."""

    def __init__(self, make: type[Raft]) -> None:
        conf = ConfState(voters=[1, 2, 3, 4, 5])
        meta = SnapshotMeta(index=1, term=1, conf_state=conf)
        config = Config(election_ticks=4, max_message_bytes=1)
        self.members = {id: make(id, conf, RaftLog(meta), config=config) for id in conf.voters}
        self.mail: list[RaftMessage] = []

    def write(self, id: int) -> None:
        """What a member wants to persist is on disk, and its messages are in the mail."""
        member = self.members[id]
        while ready := member.ready():
            member.advance(ready)
            if ready.committed:
                member.applied(ready.committed[-1].index)
            self.mail += [*ready.messages, *ready.messages_after]

    def deliver(self, *among: int, entries_up_to: int = 1000) -> None:
        """Deliver between some members until nothing is left; other mail is lost."""
        while self.mail:
            message = self.mail.pop(0)
            sender: int = getattr(message, "from")
            late = any(entry.index > entries_up_to for entry in message.entries)
            if sender in among and message.to in among and not late:
                self.members[message.to].step(message)
                self.write(message.to)

    def elect(self, id: int, *by: int) -> None:
        """Everybody has long not heard of a leader; `id` stands for election among these."""
        for other in by:
            for _ in range(4):
                self.members[other].tick()
        self.mail.clear()
        self.members[id].campaign()
        self.write(id)

    def restart(self, id: int) -> None:
        old = self.members[id]
        log = RaftLog(old.log.snapshot, old.log.slice(2, old.log.last_index), old.log.committed)
        self.members[id] = type(old)(id, old.conf, log, old.hard_state(), config=old.config)


def commits_in_figure_3_7(make: type[Raft]) -> bool:
    """Ongaro's dissertation, figure 3.7: a majority holds an entry of an old term that may still be overwritten.

    Gives back whether the leader takes it for committed.
    """
    five = Five(make)
    five.elect(1, 1, 2, 3, 4, 5)
    five.deliver(1, 2, 3, 4, 5)
    assert five.members[1].role is Role.LEADER
    five.members[1].propose([Entry(data=b"x")])
    five.write(1)
    five.deliver(1, 2)
    entry = five.members[1].log.last_index

    five.elect(5, 3, 4, 5)
    five.deliver(3, 4, 5, entries_up_to=entry - 1)
    assert five.members[5].role is Role.LEADER
    assert five.members[5].log.term(entry) == five.members[5].term

    five.restart(1)
    # The first try only learns of term 3.
    for _ in range(2):
        five.elect(1, 1, 2, 3)
        five.deliver(1, 2, 3, entries_up_to=entry)
    assert five.members[1].role is Role.LEADER
    assert [five.members[id].log.last_index >= entry for id in (1, 2, 3)] == [True, True, True]
    terms = [five.members[id].log.term(entry) or 0 for id in (1, 3, 5)]
    assert terms[0] == terms[1] < terms[2]
    return five.members[1].log.committed >= entry


def test_an_entry_of_an_old_term_is_not_committed_by_counting() -> None:
    assert not commits_in_figure_3_7(Raft)
    assert commits_in_figure_3_7(CommitsOldTerms)
