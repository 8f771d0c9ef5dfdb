"""Transcripts: text files in which a person types a command and members of a group answer.

    > cluster 1 2 3
    > tick 1 10
    > write 1
    1: persists term 2 vote 1
    1 → 2: pre-vote for term 2, log ends 1/1

Lines with `#` explain; a command begins with `>`; what follows it up to the next command is what the members said. The
commands are the methods of `Group` that begin with `do_`. Messages wait in the mail until they are delivered; what a
member wants to persist is on its disk only after `write` (or `persist`), so a crash can come in between.

    python -m tests.unit.raft.transcript FILE …     # write anew what is said; read the difference before committing it
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from flota.manager.raft import membership
from flota.manager.raft.core import Config, ProposalRefused, Raft, Ready, Role
from flota.manager.raft.log import RaftLog
from flota.manager.raft.membership import MembershipError
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, HardState, Member, RaftMessage, SnapshotMeta
from tests.unit.raft.words import configuration, entry_words, message_words, state_words

_KINDS = {
    "add": ConfChange.TYPE_ADD_VOTER,
    "learner": ConfChange.TYPE_ADD_LEARNER,
    "remove": ConfChange.TYPE_REMOVE,
}
_OPTIONS = {
    "election": "election_ticks",
    "lease": "lease_ticks",
    "inflight": "max_inflight",
    "message": "max_message_bytes",
    "uncommitted": "max_uncommitted_bytes",
}


class Patience(Random):
    """Member 1 waits election_ticks for a leader, member 2 one more, and so on."""

    def __init__(self, id: int) -> None:
        super().__init__(id)
        self._id = id

    def randint(self, a: int, b: int) -> int:
        return min(a + self._id - 1, b)


@dataclass
class Disk:
    """What outlives a crash. The state machine is the list of what was applied."""

    state: HardState = field(default_factory=HardState)
    snapshot: SnapshotMeta = field(default_factory=SnapshotMeta)
    data: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


class Machine:
    """One member with its disk and state machine."""

    def __init__(self, id: int, config: Config, disk: Disk, core: type[Raft]) -> None:
        self.id, self.config, self.disk, self._core = id, config, disk, core
        self.up = False
        self.start()

    def start(self) -> None:
        self.disk = Disk(*(_copied(part) for part in vars(self.disk).values()))
        disk = self.disk
        log = RaftLog(disk.snapshot, disk.entries, disk.state.commit)
        conf = membership.copy_of(disk.snapshot.conf_state)
        self.raft = self._core(self.id, conf, log, disk.state, Patience(self.id), self.config)
        self.values = list(disk.data)
        self.taken: Ready | None = None
        self.snapshots: dict[int, list[str]] = {}
        self.reads: list[tuple[int, str]] = []
        self.up = True

    def persist(self, ready: Ready) -> None:
        disk = self.disk
        if ready.snapshot is not None:
            disk.snapshot, disk.entries = ready.snapshot, []
            disk.data = self.values = list(self.snapshots[ready.snapshot.index])
        if ready.hard_state is not None:
            disk.state = ready.hard_state
        if ready.entries:
            first = ready.entries[0].index
            disk.entries = [one for one in disk.entries if one.index < first] + list(ready.entries)


class Group:
    """Members, the mail between them, and the commands."""

    def __init__(self, core: type[Raft] = Raft) -> None:
        self._core = core
        self._begin()

    def _begin(self) -> None:
        self.members: dict[int, Machine] = {}
        self.mail: list[tuple[RaftMessage, list[str]]] = []
        self.cuts: set[tuple[int, int]] = set()
        self.config = Config()
        self._leaders: dict[int, int] = {}
        self._applied: dict[int, tuple[int, str]] = {}
        self._proposals = itertools.count(1)

    def run(self, line: str) -> list[str]:
        """What a command makes the members say. Raises AssertionError when an invariant is broken."""
        name, *words = line.split()
        command: Callable[..., Iterable[str] | None] = getattr(self, f"do_{name.replace('-', '_')}")
        try:
            said = list(command(*words) or ())
        except (ProposalRefused, MembershipError) as error:
            said = [f"refused: {type(error).__name__}{f': {error}' if str(error) else ''}"]
        self._check()
        return said

    # Who there is.

    def do_cluster(self, *words: str) -> None:
        """cluster 1 2 3 [learner=4] [lease=8] …: a new group, and the options of all its members."""
        self._begin()
        options = dict(word.split("=") for word in words if "=" in word)
        learners = [int(options.pop("learner"))] if "learner" in options else []
        chosen = {_OPTIONS[name]: int(value) for name, value in options.items() if name in _OPTIONS}
        self.config = Config(forward_proposals="forward" in options, **chosen)  # type: ignore[arg-type]
        voters = [int(word) for word in words if "=" not in word]
        everybody = [*voters, *learners]
        conf = ConfState(voters=voters, learners=learners, members=[Member(raft_id=id) for id in everybody])
        meta = SnapshotMeta(index=1, term=1, conf_state=conf)
        for id in everybody:
            self.members[id] = Machine(id, self.config, Disk(HardState(term=1, commit=1), meta), self._core)

    def do_new(self, *ids: str) -> None:
        """new 4: a member that knows nothing yet."""
        for id in map(int, ids):
            self.members[id] = Machine(id, self.config, Disk(), self._core)

    # What happens to one.

    def do_tick(self, id: str, count: str = "1") -> None:
        for _ in range(int(count)):
            member = self._one(id)
            member.raft.clock += 1
            member.raft.tick()

    def do_sleep(self, id: str, ticks: str) -> None:
        """Its clock goes on, but it does not get to run."""
        self._one(id).raft.clock += int(ticks)

    def do_campaign(self, id: str) -> None:
        self._one(id).raft.campaign()

    def do_propose(self, id: str, *values: str) -> None:
        for value in values:
            self._one(id).raft.propose([Entry(data=value.encode(), proposal_id=next(self._proposals))])

    def do_propose_bytes(self, id: str, count: str) -> None:
        self._one(id).raft.propose([Entry(data=bytes(int(count)), proposal_id=next(self._proposals))])

    def do_change(self, id: str, *words: str) -> None:
        """change 1 add=4 remove=2 [explicit]"""
        change = ConfChange(explicit_leave="explicit" in words)
        for word in words:
            if word != "explicit":
                kind, member = word.split("=")
                change.changes.append(ConfChange.Change(type=_KINDS[kind], member=Member(raft_id=int(member))))
        self._one(id).raft.propose_conf_change(change)

    def do_leave_joint(self, id: str) -> None:
        self._one(id).raft.propose_conf_change(ConfChange())

    def do_read(self, id: str, name: str) -> None:
        self._one(id).raft.read_index(name.encode())

    def do_transfer(self, id: str, to: str) -> None:
        self._one(id).raft.transfer_leadership(int(to))

    def do_unreachable(self, id: str, other: str) -> None:
        self._one(id).raft.report_unreachable(int(other))

    def do_snapshot(self, id: str, keep: str = "0") -> Iterator[str]:
        """Write the state machine out and forget the entries behind it, but `keep` of them."""
        member = self._one(id)
        log, disk = member.raft.log, member.disk
        term = log.term(log.applied)
        assert term is not None
        disk.snapshot = SnapshotMeta(index=log.applied, term=term, conf_state=member.raft.conf)
        disk.data = list(member.values)
        log.took_snapshot(disk.snapshot)
        log.compact(max(log.applied - int(keep), log.first_index - 1))
        disk.entries = [one for one in disk.entries if one.index >= log.first_index]
        yield f"{id}: snapshot {log.snapshot.index}/{log.snapshot.term}, log from {log.first_index}"

    def do_crash(self, *ids: str) -> None:
        for id in ids:
            self._one(id).up = False

    def do_restart(self, *ids: str) -> Iterator[str]:
        for id in map(int, ids):
            self.members[id].start()
            yield f"{id}: {state_words(self.members[id].raft)}"

    # Disk.

    def do_take(self, id: str) -> Iterator[str]:
        """Take one Ready: messages that may leave at once are in the mail, nothing is on disk yet."""
        member = self._one(id)
        assert member.taken is None, f"{id} has not persisted what it took"
        ready = member.raft.ready()
        if ready:
            member.taken = ready
            yield from self._wishes(member, ready)
            yield from self._post(member, ready.messages)

    def do_persist(self, id: str) -> Iterator[str]:
        """What was taken is on disk: messages that rest on it leave, entries are applied, reads are served."""
        member = self._one(id)
        ready, member.taken = member.taken, None
        assert ready is not None, f"{id} has taken nothing"
        member.persist(ready)
        member.raft.advance(ready)
        yield from self._post(member, ready.messages_after)
        for entry in ready.committed:
            yield from self._apply(member, entry)
        if ready.committed:
            member.raft.applied(ready.committed[-1].index)
        member.reads += [(read.index, read.context.decode()) for read in ready.reads]
        for index, name in list(member.reads):
            if index <= member.raft.log.applied:
                member.reads.remove((index, name))
                yield f"{id}: read {name} at {index} sees {' '.join(member.values) or 'nothing'}"

    def do_urgent(self, id: str) -> Iterator[str]:
        """What may leave while something is being written."""
        member = self._one(id)
        yield from self._post(member, member.raft.urgent())

    def do_write(self, *ids: str) -> Iterator[str]:
        """Take and persist until there is nothing to do."""
        for id in ids:
            if self._one(id).taken is not None:
                yield from self.do_persist(id)
            while True:
                yield from self.do_take(id)
                if self._one(id).taken is None:
                    break
                yield from self.do_persist(id)

    # Mail.

    def do_deliver(self, *ids: str) -> Iterator[str]:
        """Deliver what is in the mail, for these members or for all; nobody writes."""
        to = set(map(int, ids)) or set(self.members)
        mail, self.mail = self.mail, []
        for message, data in mail:
            if message.to not in to:
                self.mail.append((message, data))
            else:
                yield from self._deliver(message, data)

    def do_lose(self, *ids: str) -> Iterator[str]:
        """Lose what is in the mail, for these members or for all."""
        to = set(map(int, ids)) or set(self.members)
        for message, _ in self.mail:
            if message.to in to:
                yield f"lost: {message_words(message)}"
        self.mail = [(message, data) for message, data in self.mail if message.to not in to]

    def do_settle(self, *ids: str) -> Iterator[str]:
        """Write and deliver among these members (or all) until nothing is left to do."""
        some = list(map(int, ids)) or list(self.members)
        while True:
            said: list[str] = []
            for id in some:
                if self.members[id].up:
                    said += self.do_write(str(id))
            yield from said
            if not said and not any(message.to in some for message, _ in self.mail):
                return
            yield from self.do_deliver(*map(str, some))

    def do_quietly(self, *words: str) -> None:
        """quietly COMMAND …: what is said is of no interest."""
        name, *rest = words
        for _ in getattr(self, f"do_{name}")(*rest) or ():
            pass

    def do_cut(self, *words: str) -> None:
        """cut 1 2 | 3: between two sides; cut 1 > 2: one way only."""
        one_way = ">" in words
        middle = words.index(">" if one_way else "|")
        left, right = map(int, words[:middle]), list(map(int, words[middle + 1 :]))
        for a in left:
            for b in right:
                self.cuts |= {(a, b)} if one_way else {(a, b), (b, a)}

    def do_heal(self) -> None:
        self.cuts.clear()

    # Looking.

    def do_state(self, *ids: str) -> Iterator[str]:
        for id in map(int, ids or map(str, self.members)):
            member = self.members[id]
            yield f"{id}: {state_words(member.raft) if member.up else 'down'}"

    def do_log(self, *ids: str) -> Iterator[str]:
        for id in map(int, ids or map(str, self.members)):
            log = self.members[id].raft.log
            words = " ".join(entry_words(one) for one in log.slice(log.first_index, log.last_index)) or "nothing"
            yield f"{id}: {words}; committed {log.committed}"

    def do_values(self, *ids: str) -> Iterator[str]:
        for id in map(int, ids or map(str, self.members)):
            yield f"{id}: {' '.join(self.members[id].values) or 'nothing'}"

    # Machinery.

    def _one(self, id: str) -> Machine:
        member = self.members[int(id)]
        assert member.up, f"{id} is down"
        return member

    def _wishes(self, member: Machine, ready: Ready) -> Iterator[str]:
        wishes: list[str] = []
        state, known = ready.hard_state, member.disk.state
        if state is not None and (state.term, state.voted_for) != (known.term, known.voted_for):
            wishes.append(f"term {state.term}" + (f" vote {state.voted_for}" if state.voted_for else ""))
        if ready.snapshot is not None:
            wishes.append(f"snapshot {ready.snapshot.index}/{ready.snapshot.term}")
        wishes += [entry_words(entry) for entry in ready.entries]
        if wishes:
            yield f"{member.id}: persists {', '.join(wishes)}"

    def _post(self, member: Machine, messages: list[RaftMessage]) -> Iterator[str]:
        for message in messages:
            data: list[str] = []
            if message.type == RaftMessage.TYPE_SNAPSHOT:
                data = list(member.disk.data)
            sent = RaftMessage()
            sent.CopyFrom(message)
            self.mail.append((sent, data))
            yield message_words(message)

    def _deliver(self, message: RaftMessage, data: list[str]) -> Iterator[str]:
        sender: int = getattr(message, "from")
        receiver = self.members[message.to]
        arrives = receiver.up and (sender, message.to) not in self.cuts
        if message.type == RaftMessage.TYPE_SNAPSHOT:
            if arrives:
                receiver.snapshots[message.snapshot.index] = data
            if self.members[sender].up:
                self.members[sender].raft.report_snapshot(message.to, arrives)
        if not arrives:
            yield f"lost: {message_words(message)}"
            return
        role = receiver.raft.role
        receiver.raft.step(message)
        if receiver.raft.role is not role:
            yield f"{message.to}: becomes {receiver.raft.role.value} in term {receiver.raft.term}"

    def _apply(self, member: Machine, entry: Entry) -> Iterator[str]:
        known = self._applied.setdefault(entry.index, (entry.term, entry_words(entry)))
        assert known == (entry.term, entry_words(entry)), f"{member.id} applies another entry {entry.index}"
        if entry.type == Entry.TYPE_CONF_CHANGE:
            conf = member.raft.apply_conf_change(entry)
            yield f"{member.id}: applies {entry_words(entry)}: {configuration(conf)}"
            return
        value = entry.data.decode()
        if value:
            member.values.append(value if "\0" not in value else f"{len(value)} bytes")
        yield f"{member.id}: applies {entry_words(entry)}"

    def _check(self) -> None:
        """Election safety, log matching, and that no state machine differs (figure 3.2)."""
        for member in self.members.values():
            raft = member.raft
            if member.up and raft.role is Role.LEADER:
                other = self._leaders.setdefault(raft.term, member.id)
                assert other == member.id, f"{other} and {member.id} both lead in term {raft.term}"
        for one, other in itertools.combinations(self.members.values(), 2):
            a, b = one.raft.log, other.raft.log
            low, high = max(a.first_index, b.first_index), min(a.last_index, b.last_index)
            agrees = [a.term(index) == b.term(index) for index in range(low, high + 1)]
            # Once they agree at an index, they agree at all before it.
            assert agrees == sorted(agrees, reverse=True), f"logs {one.id} and {other.id} match after a difference"


def _copied(part: object) -> object:
    if isinstance(part, list):
        return [_copied(one) for one in part]
    if isinstance(part, str):
        return part
    copied = type(part)()
    copied.CopyFrom(part)  # type: ignore[attr-defined]
    return copied


def rewritten(text: str, core: type[Raft] = Raft) -> str:
    """The transcript with what its members really say. Raises AssertionError when they break an invariant."""
    group = Group(core)
    lines: list[str] = []
    skipping = False
    for line in text.splitlines():
        if line.startswith("> "):
            said = group.run(line[2:])
            lines += [line, *said]
            skipping = True
        elif not line or line.startswith("#"):
            lines.append(line)
            skipping = False
        else:
            assert skipping, f"{line!r} follows no command"
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(rewritten(path.read_text()))
