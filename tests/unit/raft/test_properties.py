"""Quorums, configurations and the log against the plainest descriptions of them."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.manager.raft.log import RaftLog
from flota.manager.raft.membership import MembershipError, apply_change, everybody, is_joint
from flota.manager.raft.progress import Progress, ProgressState
from flota.manager.raft.quorum import Vote, committed_index, has_quorum, vote_result
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, Member
from tests.unit.raft.transcript import Group

IDS = range(1, 8)
voter_sets = st.sets(st.sampled_from(IDS), min_size=1, max_size=7)
configurations = st.builds(
    lambda voters, outgoing: ConfState(voters=sorted(voters), voters_outgoing=sorted(outgoing)),
    voter_sets,
    st.one_of(st.just(set()), voter_sets),
)


def majorities(voters: list[int]) -> list[set[int]]:
    """Every set that is more than half of the voters; of no voters, the empty one."""
    if not voters:
        return [set()]
    return [
        set(some) for some in chain.from_iterable(combinations(voters, n) for n in IDS) if 2 * len(some) > len(voters)
    ]


def quorums(conf: ConfState) -> list[set[int]]:
    """Every union of a majority of each half."""
    halves = majorities(list(conf.voters)), majorities(list(conf.voters_outgoing))
    return [one | other for one in halves[0] for other in halves[1]]


@given(configurations, st.dictionaries(st.sampled_from(IDS), st.integers(0, 9)))
def test_an_index_is_committed_when_some_quorum_has_it(conf: ConfState, has: dict[int, int]) -> None:
    best = max(min(has.get(id, 0) for id in quorum) for quorum in quorums(conf))
    assert committed_index(conf, lambda id: has.get(id, 0)) == best


@given(configurations, st.dictionaries(st.sampled_from(IDS), st.booleans()))
def test_an_election_is_won_by_a_quorum_and_lost_when_none_is_left(conf: ConfState, votes: dict[int, bool]) -> None:
    granted = {id for id, vote in votes.items() if vote}
    possible = granted | {id for id in IDS if id not in votes}
    won = any(quorum <= granted for quorum in quorums(conf))
    open_still = any(quorum <= possible for quorum in quorums(conf))
    assert vote_result(conf, votes) is (Vote.WON if won else Vote.PENDING if open_still else Vote.LOST)
    assert has_quorum(conf, granted) is won


steps = st.builds(
    lambda kind, id: ConfChange.Change(type=kind, member=Member(raft_id=id)),
    st.sampled_from((ConfChange.TYPE_ADD_VOTER, ConfChange.TYPE_ADD_LEARNER, ConfChange.TYPE_REMOVE)),
    st.sampled_from(IDS),
)
changes = st.one_of(
    st.just(ConfChange()),
    st.builds(
        lambda some: ConfChange(changes=some),
        st.lists(steps, min_size=1, max_size=4, unique_by=lambda one: one.member.raft_id),
    ),
)


@given(st.sets(st.sampled_from(IDS), min_size=1, max_size=5), st.lists(changes, max_size=6))
def test_quorums_before_and_after_a_change_always_share_a_member(voters: set[int], wanted: list[ConfChange]) -> None:
    conf = ConfState(voters=sorted(voters), members=[Member(raft_id=id) for id in sorted(voters)])
    for change in wanted:
        try:
            after = apply_change(conf, change)
        except MembershipError:
            continue
        assert all(one & other for one in quorums(conf) for other in quorums(after))
        assert set(after.voters)
        assert not set(after.voters) & set(after.learners)
        assert [member.raft_id for member in sorted(after.members, key=lambda one: one.raft_id)] == everybody(after)
        assert not set(after.removed) & set(everybody(after)) or is_joint(after)
        conf = after


terms = st.lists(st.integers(0, 2), max_size=12).map(lambda gaps: [1 + sum(gaps[: n + 1]) for n in range(len(gaps))])


def log_of(some_terms: list[int]) -> RaftLog:
    return RaftLog(entries=[Entry(index=at, term=term) for at, term in enumerate(some_terms, 1)])


@given(terms, terms)
def test_the_search_for_agreement_never_passes_the_last_common_entry(leader: list[int], follower: list[int]) -> None:
    ours, theirs = log_of(leader), log_of(follower)
    common = 0
    while common < min(len(leader), len(follower)) and leader[: common + 1] == follower[: common + 1]:
        common += 1
    index, questions = ours.last_index, 0
    while not theirs.matches(index, ours.term(index) or 0):
        hint = theirs.find_conflict_by_term(index, ours.term(index) or 0)
        following = ours.find_conflict_by_term(hint, theirs.term(hint) or 0)
        assert common <= following < index
        index, questions = following, questions + 1
    # A question a term at most, not one an entry.
    assert questions <= len(set(leader)) + len(set(follower))


@given(
    st.lists(st.tuples(st.sampled_from(("sent", "acknowledged", "lost", "heartbeat")), st.integers(0, 30)), max_size=40)
)
def test_a_window_is_bounded_and_never_counts_bytes_that_landed(events: list[tuple[str, int]]) -> None:
    progress = Progress(next=1, max_inflight=4, max_inflight_bytes=100)
    progress.become_replicate()
    last = 0
    for kind, number in events:
        if kind == "sent" and not progress.blocked():
            last = progress.next + number
            progress.sent(last, number * 5)
        elif kind == "acknowledged":
            progress.acknowledged(min(number, last))
        elif kind == "lost":
            progress.become_probe()
            progress.become_replicate()
        elif kind == "heartbeat":
            progress.make_room()
            assert not progress.blocked()
        assert progress.state is ProgressState.REPLICATE
        assert len(progress.inflight) <= 4
        assert progress.inflight_bytes == sum(size for _, size in progress.inflight)
        assert progress.match < progress.next


@pytest.mark.parametrize("answered", [False, True])
def test_a_leader_keeps_no_rounds_that_are_confirmed(answered: bool) -> None:
    group = Group()
    group.run("cluster 1 2 3" if answered else "cluster 1")
    group.run("quietly campaign 1")
    group.run("quietly settle")
    for _ in range(50):
        group.run("quietly tick 1")
        group.run("quietly settle")
    leader = group.members[1].raft
    assert leader._round >= 50
    assert not leader._sent_rounds
    assert set(leader._answered) == ({2, 3} if answered else set())
