"""Majorities, plain and joint (dissertation, 4.1 and 4.3).

In a joint configuration a decision needs a majority of the incoming voters and a majority of the outgoing ones.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from flota.v1.raft_pb2 import ConfState


class Vote(Enum):
    """How an election stands."""

    PENDING = 0
    WON = 1
    LOST = 2


def majority_index(voters: Iterable[int], index_of: Callable[[int], int]) -> int:
    """The largest index that a majority of `voters` has; unlimited for no voters (so that min() ignores it)."""
    indices = sorted(map(index_of, voters), reverse=True)
    return indices[len(indices) // 2] if indices else 2**63


def majority_vote(voters: Iterable[int], votes: Mapping[int, bool]) -> Vote:
    """Count votes (True = granted) among `voters`; no voters at all have agreed."""
    members = list(voters)
    if not members:
        return Vote.WON
    needed = len(members) // 2 + 1
    granted = sum(votes.get(member, False) for member in members)
    open_votes = sum(member not in votes for member in members)
    if granted >= needed:
        return Vote.WON
    return Vote.PENDING if granted + open_votes >= needed else Vote.LOST


def committed_index(conf: ConfState, index_of: Callable[[int], int]) -> int:
    """The largest index that this configuration has agreed on."""
    return min(majority_index(conf.voters, index_of), majority_index(conf.voters_outgoing, index_of))


def vote_result(conf: ConfState, votes: Mapping[int, bool]) -> Vote:
    """How an election stands under this configuration."""
    results = {majority_vote(conf.voters, votes), majority_vote(conf.voters_outgoing, votes)}
    if Vote.LOST in results:
        return Vote.LOST
    return Vote.PENDING if Vote.PENDING in results else Vote.WON


def has_quorum(conf: ConfState, present: Iterable[int]) -> bool:
    """Whether those present can decide."""
    return vote_result(conf, dict.fromkeys(present, True)) is Vote.WON
