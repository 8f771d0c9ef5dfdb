"""How transcripts put messages, entries and states into words."""

from flota.manager.raft.core import Raft, Role
from flota.manager.raft.progress import ProgressState
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, RaftMessage

_CHANGES = {
    ConfChange.TYPE_ADD_VOTER: "add",
    ConfChange.TYPE_ADD_LEARNER: "learner",
    ConfChange.TYPE_REMOVE: "remove",
    ConfChange.TYPE_UPDATE: "update",
}


def entry_words(entry: Entry) -> str:
    """`5/2 x`: index, term, what."""
    if entry.type == Entry.TYPE_CONF_CHANGE:
        change = ConfChange.FromString(entry.data)
        steps = [f"{_CHANGES[step.type]}={step.member.raft_id}" for step in change.changes]
        what = f"({' '.join(steps) or 'leave joint'})"
    elif len(entry.data) > 20:
        what = f"({len(entry.data)} bytes)"
    else:
        what = entry.data.decode() or "()"
    return f"{entry.index}/{entry.term} {what}"


def configuration(conf: ConfState) -> str:
    """Voters, learners and the outgoing half."""
    words = ["voters", *map(str, sorted(conf.voters))]
    if conf.voters_outgoing:
        words += ["and", *map(str, sorted(conf.voters_outgoing))]
    if conf.learners:
        words += ["learners", *map(str, sorted(conf.learners))]
    if conf.learners_next:
        words += ["then learners", *map(str, sorted(conf.learners_next))]
    return " ".join(words)


def state_words(raft: Raft) -> str:
    """Role, term, log, and how far a leader's followers are."""
    log = raft.log
    words = f"{raft.role.value} in term {raft.term}"
    if raft.role is Role.FOLLOWER:
        words += f" of {raft.leader}" if raft.leader else " of nobody"
    words += f", log {log.first_index}…{log.last_index}, committed {log.committed}, applied {log.applied}"
    if raft.role is not Role.LEADER:
        return words
    if raft.config.lease_ticks:
        words += ", lease" if raft.has_lease else ", no lease"
    for id, progress in sorted(raft.progress.items()):
        if id == raft.id:
            continue
        words += f"; {id}: {progress.state.value} has {progress.match} next {progress.next}"
        if progress.state is ProgressState.REPLICATE and progress.inflight:
            words += f" in flight {len(progress.inflight)}"
        if progress.blocked():
            words += " waits"
    return words


def message_words(message: RaftMessage) -> str:
    """`1 → 2: append after 4/2 [5/2 x] commit 4`; the term stands there when the reader needs it."""
    kind = RaftMessage.Type.Name(message.type)[len("TYPE_") :].lower().replace("_", "-")
    head = f"{getattr(message, 'from')} → {message.to}: "
    if message.type == RaftMessage.TYPE_APPEND:
        entries = ", ".join(entry_words(entry) for entry in message.entries)
        return f"{head}append after {message.index}/{message.log_term} [{entries}] commit {message.commit}"
    if message.type == RaftMessage.TYPE_APPEND_RESPONSE:
        if message.reject:
            return f"{head}append refused after {message.index}, try after {message.reject_hint}/{message.log_term}"
        return f"{head}has {message.index} in term {message.term}"
    if message.type in (RaftMessage.TYPE_PRE_VOTE, RaftMessage.TYPE_VOTE):
        forced = ", by the leader's wish" if message.context else ""
        return f"{head}{kind} for term {message.term}? log ends {message.index}/{message.log_term}{forced}"
    if message.type in (RaftMessage.TYPE_PRE_VOTE_RESPONSE, RaftMessage.TYPE_VOTE_RESPONSE):
        return f"{head}{kind.removesuffix('-response')} {'no' if message.reject else 'yes'} in term {message.term}"
    if message.type == RaftMessage.TYPE_HEARTBEAT:
        return f"{head}heartbeat {int.from_bytes(message.context)} commit {message.commit}"
    if message.type == RaftMessage.TYPE_HEARTBEAT_RESPONSE:
        return f"{head}heartbeat {int.from_bytes(message.context)} heard"
    if message.type == RaftMessage.TYPE_SNAPSHOT:
        meta = message.snapshot
        return f"{head}snapshot {meta.index}/{meta.term}, {configuration(meta.conf_state)}"
    if message.type == RaftMessage.TYPE_READ_INDEX:
        return f"{head}from where may I read {message.context.decode()}?"
    if message.type == RaftMessage.TYPE_READ_INDEX_RESPONSE:
        return f"{head}read {message.context.decode()} from {message.index} on"
    if message.type == RaftMessage.TYPE_PROPOSE:
        return f"{head}propose {' '.join(entry.data.decode() for entry in message.entries)}"
    return f"{head}{kind}"
