"""Configurations and how they change (dissertation, 4.2 and 4.3), as pure functions over ConfState.

One change at a time goes directly; several at once pass through a joint configuration, which is left by a second
entry. A voter that becomes a learner while the outgoing half still needs it waits in `learners_next`.
"""

from collections.abc import Iterable

from flota.v1.raft_pb2 import ConfChange, ConfState, Member

# Removed members kept in mind, so that they can be told.
_REMEMBERED = 1000


class MembershipError(Exception):
    """A change that cannot be made from this configuration."""


def copy_of(conf: ConfState) -> ConfState:
    """A copy to change."""
    copied = ConfState()
    copied.CopyFrom(conf)
    return copied


def is_joint(conf: ConfState) -> bool:
    """Between two configurations."""
    return len(conf.voters_outgoing) > 0


def everybody(conf: ConfState) -> list[int]:
    """All voters and learners, in a fixed order."""
    return sorted({*conf.voters, *conf.voters_outgoing, *conf.learners, *conf.learners_next})


def may_vote(conf: ConfState, id: int) -> bool:
    """Whether `id` counts in elections."""
    return id in conf.voters or id in conf.voters_outgoing


def apply_change(conf: ConfState, change: ConfChange) -> ConfState:
    """The configuration after a committed change. Raises MembershipError; deterministic."""
    if not change.changes:
        return leave_joint(conf)
    if is_joint(conf):
        raise MembershipError("the configuration is joint already: it must be left first")
    after = copy_of(conf)
    steps = list(change.changes)
    moving = [step for step in steps if step.type != ConfChange.TYPE_UPDATE]
    joint = len(moving) > 1
    if joint:
        after.voters_outgoing.extend(conf.voters)
        after.auto_leave = not change.explicit_leave
    for step in steps:
        _apply_step(after, step)
    if not after.voters:
        raise MembershipError("the last voter cannot be removed")
    return after


def apply_if_possible(conf: ConfState, change: ConfChange) -> ConfState:
    """The configuration after a committed change; unchanged by one that does not fit (the same on every member)."""
    try:
        return apply_change(conf, change)
    except MembershipError:
        return conf


def _apply_step(conf: ConfState, step: ConfChange.Change) -> None:
    id = step.member.raft_id
    if step.type == ConfChange.TYPE_UPDATE:
        for member in conf.members:
            if member.raft_id == id:
                member.CopyFrom(step.member)
        return
    if step.type != ConfChange.TYPE_REMOVE and id in conf.removed:
        raise MembershipError(f"member {id:x} was removed: it must join under a new id")
    _discard(conf.voters, id)
    _discard(conf.learners, id)
    _discard(conf.learners_next, id)
    if step.type == ConfChange.TYPE_ADD_VOTER:
        conf.voters.append(id)
    elif step.type == ConfChange.TYPE_ADD_LEARNER:
        (conf.learners_next if id in conf.voters_outgoing else conf.learners).append(id)
    if step.type == ConfChange.TYPE_REMOVE:
        conf.removed.append(id)
        del conf.removed[:-_REMEMBERED]
    else:
        _put_member(conf, step.member)
    _drop_strangers(conf)


def leave_joint(conf: ConfState) -> ConfState:
    """Only the incoming half remains. Raises MembershipError when there is nothing to leave."""
    if not is_joint(conf):
        raise MembershipError("the configuration is not joint: there is nothing to leave")
    after = copy_of(conf)
    del after.voters_outgoing[:]
    after.learners.extend(after.learners_next)
    del after.learners_next[:]
    after.auto_leave = False
    _drop_strangers(after)
    return after


def _put_member(conf: ConfState, member: Member) -> None:
    if not member.node_id and not member.address:
        member = next((known for known in conf.members if known.raft_id == member.raft_id), member)
    kept = [known for known in conf.members if known.raft_id != member.raft_id]
    copied = Member()
    copied.CopyFrom(member)
    del conf.members[:]
    conf.members.extend([*kept, copied])


def _drop_strangers(conf: ConfState) -> None:
    inside = set(everybody(conf))
    kept = [member for member in conf.members if member.raft_id in inside]
    del conf.members[:]
    conf.members.extend(kept)


def _discard(ids: Iterable[int], id: int) -> None:
    if id in ids:
        ids.remove(id)  # type: ignore[attr-defined]
