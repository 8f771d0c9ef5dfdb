"""The checks can fail: every seeded bug is caught, most of them by storms, two by the stories they are famous for."""

import pytest

from flota.manager.raft.core import Config, Raft, Role
from flota.manager.raft.log import RaftLog
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, Member, RaftMessage, SnapshotMeta
from tests.simulation.raft.bugs import BUGS, CommitsOldTerms, ForgetsTheOutgoingHalf
from tests.simulation.raft.seeds import run_seed

# Where the search begins, so that it need not be long; the storm that catches a bug is somewhere in here.
SEEDS = {
    "VotesTwice": range(20),
    "AcknowledgesBeforeItWrites": range(470, 490),
    "ForgetsToWrite": range(20),
    "ReadsWithoutAsking": range(40),
    "ChangesTwoAtOnce": range(120),
}


def test_every_bug_is_looked_for() -> None:
    assert set(SEEDS) | {"CommitsOldTerms", "ForgetsTheOutgoingHalf"} == set(BUGS)


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
    """Five members, voters all or some of them, whose messages are delivered by hand."""

    def __init__(self, make: type[Raft], *voters: int) -> None:
        conf = ConfState(voters=voters)
        meta = SnapshotMeta(index=1, term=1, conf_state=conf)
        config = Config(election_ticks=4, max_message_bytes=1)
        self.members = {id: make(id, conf, RaftLog(meta), config=config) for id in (1, 2, 3, 4, 5)}
        self.mail: list[RaftMessage] = []

    def write(self, id: int) -> None:
        """What a member wants to persist is on disk, and its messages are in the mail."""
        member = self.members[id]
        while ready := member.ready():
            member.advance(ready)
            for entry in ready.committed:
                if entry.type == Entry.TYPE_CONF_CHANGE:
                    member.apply_conf_change(entry)
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
    five = Five(make, 1, 2, 3, 4, 5)
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


def commits_with_the_new_half_alone(make: type[Raft]) -> bool:
    """Section 4.3: between two configurations an entry needs a majority of both.

    Leader 1 of {1, 2, 3} is on its way to {1, 3, 4, 5} and reaches only 4 and 5.
    """
    five = Five(make, 1, 2, 3)
    five.elect(1, 1, 2, 3)
    five.deliver(1, 2, 3)
    leader = five.members[1]
    assert leader.role is Role.LEADER
    steps = [(ConfChange.TYPE_ADD_VOTER, 4), (ConfChange.TYPE_ADD_VOTER, 5), (ConfChange.TYPE_REMOVE, 2)]
    change = ConfChange(explicit_leave=True)
    for kind, id in steps:
        change.changes.append(ConfChange.Change(type=kind, member=Member(raft_id=id)))
    leader.propose_conf_change(change)
    five.write(1)
    five.deliver(1, 2, 3)
    assert sorted(leader.conf.voters) == [1, 3, 4, 5]
    assert sorted(leader.conf.voters_outgoing) == [1, 2, 3]
    leader.propose([Entry(data=b"x")])
    five.write(1)
    for _ in range(3):
        # Heartbeats, so that the new ones are probed until they have everything.
        leader.tick()
        five.write(1)
        five.deliver(1, 4, 5)
    assert leader.progress[4].match == leader.progress[5].match == leader.log.last_index
    return leader.log.committed == leader.log.last_index


def test_a_joint_configuration_needs_both_its_halves() -> None:
    assert not commits_with_the_new_half_alone(Raft)
    assert commits_with_the_new_half_alone(ForgetsTheOutgoingHalf)
