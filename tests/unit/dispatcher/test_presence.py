"""Who is up: sessions and heartbeats on a clock of numbers."""

from random import Random

import pytest

from flota.manager.dispatcher.presence import SESSIONS_PER_WINDOW, WINDOW, Presence
from flota.rpc.errors import FailedPrecondition, ResourceExhausted
from flota.v1.types_pb2 import NodeState

UNKNOWN, DOWN = NodeState.NODE_STATE_UNKNOWN, NodeState.NODE_STATE_DOWN
READY, DISCONNECTED = NodeState.NODE_STATE_READY, NodeState.NODE_STATE_DISCONNECTED


class Watched:
    """Presence, and the changes it told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.presence = Presence(Random(3), lambda node_id, state, reason: self.told.append((node_id, state)))


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_heartbeats_keep_a_node_up_and_three_missed_ones_do_not(watched: Watched) -> None:
    presence = watched.presence
    session, _ = presence.open("n", "", 0.0)
    now = 0.0
    for _ in range(100):
        assert presence.expire(now) == []
        now += presence.heartbeat("n", session.id, now)
    last = now
    period = presence.heartbeat("n", session.id, last)
    assert presence.expire(last + 3 * period - 0.01) == []
    assert watched.told == [("n", READY)]
    assert presence.expire(last + 3 * period) == [session]
    assert watched.told == [("n", READY), ("n", DOWN)]
    with pytest.raises(FailedPrecondition):
        presence.heartbeat("n", session.id, last)


def test_periods_are_jittered_around_the_clusters(watched: Watched) -> None:
    presence = watched.presence
    presence.asked_period = 5.0
    session, _ = presence.open("n", "", 0.0)
    periods = [presence.heartbeat("n", session.id, 0.0) for _ in range(50)]
    assert 4.5 <= min(periods) < 4.7
    assert 5.3 < max(periods) <= 5.5


def test_periods_grow_with_the_cluster(watched: Watched) -> None:
    presence = watched.presence
    for number in range(1000):
        presence.expect(f"n{number}", 0.0)
    session, _ = presence.open("n0", "", 0.0)
    period = presence.heartbeat("n0", session.id, 0.0)
    assert 3.6 <= period <= 4.4
    assert presence.expire(3 * period - 0.01) == []
    presence.asked_period = 60.0
    assert presence.heartbeat("n0", session.id, 1.0) >= 54


def test_a_shorter_period_counts_at_once(watched: Watched) -> None:
    presence = watched.presence
    presence.asked_period = 60.0
    session, _ = presence.open("n", "", 0.0)
    presence.asked_period = 1.0
    presence.heartbeat("n", session.id, 1.0)
    alarm = presence.next_alarm()
    assert alarm is not None
    assert alarm <= 1.0 + 3 * 1.1
    assert presence.expire(alarm) == [session]
    # The first alarm still rings, and means nothing any more.
    assert presence.expire(1000.0) == []
    assert watched.told == [("n", READY), ("n", DOWN)]


def test_a_broken_stream_has_the_rest_of_its_time_to_come_back(watched: Watched) -> None:
    presence = watched.presence
    session, _ = presence.open("n", "", 0.0)
    presence.detach(session)
    assert presence.expire(2.9) == []
    resumed, replaced = presence.open("n", session.id, 2.9)
    assert (resumed.id, replaced) == (session.id, session)
    # The old stream's end comes late and is nobody's business.
    presence.detach(session)
    assert presence.expire(3.0) == []
    presence.detach(resumed)
    assert presence.expire(5.9) == [resumed]
    assert watched.told == [("n", READY), ("n", DISCONNECTED), ("n", READY), ("n", DISCONNECTED), ("n", DOWN)]
    fresh, _ = presence.open("n", session.id, 6.0)
    assert fresh.id != session.id


def test_a_node_that_was_never_heard_of_has_twice_the_time(watched: Watched) -> None:
    presence = watched.presence
    presence.expect("n", 0.0)
    presence.expect("n", 3.0)
    presence.expire(5.9)
    assert watched.told == []
    presence.expire(6.0)
    assert watched.told == [("n", DOWN)]


def test_a_goodbye_is_believed_at_once(watched: Watched) -> None:
    presence = watched.presence
    session, _ = presence.open("n", "", 0.0)
    presence.goodbye(session)
    assert watched.told == [("n", READY), ("n", DOWN)]
    assert presence.sessions() == []
    presence.open("n", "", 1.0)
    assert watched.told[-1] == ("n", READY)
    presence.expire(4.0)
    assert watched.told[-1] == ("n", DOWN)


def test_time_in_which_we_did_not_run_is_not_the_nodes_fault(watched: Watched) -> None:
    presence = watched.presence
    session, _ = presence.open("n", "", 0.0)
    # It had half a second more to go.
    presence.postpone(57.5, 60.0)
    assert presence.expire(60.9) == []
    assert presence.expire(61.0) == [session]


def test_moments_in_which_we_did_not_run_add_up_but_end_no_wait(watched: Watched) -> None:
    presence = watched.presence
    session, _ = presence.open("n", "", 0.0)
    for n in range(1, 11):
        presence.postpone(0.25, n / 2)
    assert presence.expire(5.4) == []
    assert presence.expire(5.5) == [session]


def test_sessions_are_rationed_per_node(watched: Watched) -> None:
    presence = watched.presence
    for n in range(SESSIONS_PER_WINDOW):
        presence.open("n", "", n * 0.1)
    with pytest.raises(ResourceExhausted, match=r"try again in 7\.0 s"):
        presence.open("n", "", 1.0)
    presence.open("other", "", 1.0)
    presence.open("n", "", WINDOW)


def test_a_forgotten_node_is_not_missed(watched: Watched) -> None:
    presence = watched.presence
    session, _ = presence.open("n", "", 0.0)
    assert presence.forget("n") is session
    assert presence.expire(100.0) == []
    presence.detach(session)
    assert watched.told == [("n", READY)]
