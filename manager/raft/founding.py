"""How a group comes to be: begun by its first member, or forced anew by one that is left.

Both leave a snapshot that holds the configuration, so that whoever joins starts from it too. Blocking calls.
"""

from flota.manager.raft import membership
from flota.manager.raft.interface import StateMachine
from flota.manager.raft.storage import Loaded, Storage
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, HardState, Member, SnapshotMeta


def bootstrap(storage: Storage, member: Member, state_machine: StateMachine, loaded: Loaded, first_index: int) -> None:
    """Begin a group of one: a snapshot that holds the first configuration, so that joiners start from it too."""
    conf = ConfState(voters=[member.raft_id], members=[member])
    loaded.snapshot = SnapshotMeta(index=first_index, term=1, conf_state=conf)
    loaded.hard_state = HardState(term=1, commit=first_index)
    storage.save_snapshot(loaded.snapshot, state_machine.snapshot()())
    storage.persist(loaded.hard_state, [])


def force_new_cluster(storage: Storage, member: Member, state_machine: StateMachine, loaded: Loaded) -> None:
    """Make this member the only one, keeping every entry it has: more than was acknowledged, never less."""
    if loaded.snapshot.index:
        state_machine.restore(storage.state(), loaded.snapshot.index)
    conf = membership.copy_of(loaded.snapshot.conf_state)
    index, term = loaded.snapshot.index, loaded.snapshot.term
    for entry in loaded.entries:
        if entry.index <= loaded.snapshot.index:
            continue
        index, term = entry.index, entry.term
        if entry.type == Entry.TYPE_CONF_CHANGE:
            conf = membership.apply_if_possible(conf, ConfChange.FromString(entry.data))
        elif entry.data:
            state_machine.apply(entry.index, entry.data)
    others = [id for id in membership.everybody(conf) if id != member.raft_id]
    alone = ConfState(voters=[member.raft_id], members=[member], removed=[*conf.removed, *others])
    loaded.hard_state = HardState(term=max(loaded.hard_state.term, term) + 1, commit=index)
    loaded.snapshot = SnapshotMeta(index=index, term=term, conf_state=alone)
    loaded.entries = []
    storage.save_snapshot(loaded.snapshot, state_machine.snapshot()())
    storage.persist(loaded.hard_state, [], restored=index)
