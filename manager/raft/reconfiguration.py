"""Changes of the membership (dissertation, 4): proposed as entries, in force when they are applied.

Theory of operation. membership.py says what a change makes of a configuration. Rules that keep two majorities from
deciding apart:

* A change is proposed only when the one before it is applied here, and a new leader waits for everything it inherited
  (4.1; the correction of 2015: not before an entry of its own term is committed, which `Raft.leads` and the commit
  rule of 3.6.2 give).
* One member at a time goes directly (4.1), more go through a joint configuration, in which every decision needs both
  majorities (4.3). The leader leaves it by a second entry as soon as the first is applied, or when it is told to.
* Configurations count from when they are *applied*, not from when they are appended (as in etcd's raft). Whoever has a
  committed change that is not applied yet stands for no election (`_may_campaign`).
* A leader that is not a voter any longer steps down when the change that says so is applied, after it was committed
  (4.2.2).
* An entry changes a configuration once: one that is older than the configuration in use (a snapshot brought it) does
  not.
"""

from flota.manager.raft import membership
from flota.manager.raft.progress import Progress
from flota.manager.raft.replication import Replication
from flota.manager.raft.state import NOBODY, ProposalRefused, Role
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry


class Reconfiguration(Replication):
    """See the module's docstring."""

    def propose_conf_change(self, change: ConfChange, proposal_id: int = 0) -> None:
        """Propose a new configuration. Raises NotLeader; ProposalRefused while another one is in flight."""
        if self._conf_change_index > self.log.applied:
            raise ProposalRefused("another change of the membership is in flight")
        if membership.is_joint(self.conf) == bool(change.changes):
            raise ProposalRefused("the membership is between two configurations" if change.changes else "not joint")
        if change.changes:
            membership.apply_change(self.conf, change)
        data = change.SerializeToString()
        self._append_proposals([Entry(type=Entry.TYPE_CONF_CHANGE, data=data, proposal_id=proposal_id)])

    def apply_conf_change(self, entry: Entry) -> ConfState:
        """Apply a committed configuration change; gives back the configuration that holds now (4.1)."""
        if entry.index <= self._conf_index:
            return self.conf
        before, self._conf_index = self.conf, entry.index
        self.conf = membership.apply_if_possible(before, ConfChange.FromString(entry.data))
        if self.conf is not before:
            self._configuration_changed()
        return self.conf

    def _leave_joint(self) -> None:
        """Propose the second half of a joint change when its first half is applied (4.3)."""
        if self.role is not Role.LEADER or not membership.is_joint(self.conf) or not self.conf.auto_leave:
            return
        if self._conf_change_index <= self.log.applied and self.transferee == NOBODY:
            self._append_proposals([Entry(type=Entry.TYPE_CONF_CHANGE, data=ConfChange().SerializeToString())])

    def _configuration_changed(self) -> None:
        if self.role is not Role.LEADER:
            return
        self._lease_since = None
        members = membership.everybody(self.conf)
        for id in members:
            if id not in self.progress:
                first = Progress(
                    next=self.log.last_index + 1,
                    max_inflight=self.config.max_inflight,
                    max_inflight_bytes=self.config.max_inflight_bytes,
                )
                # Counted as present until the next check, or the change itself could depose the leader.
                first.active = True
                self.progress[id] = first
        if self.id in self.progress:
            self.progress[self.id].acknowledged(self.log.stable)
        for id in set(self.progress) - set(members):
            del self.progress[id]
        if not membership.may_vote(self.conf, self.id):
            # Removed (or made a learner): the change is committed, others can go on without us (4.2.2).
            self._become_follower(self.term, NOBODY)
            return
        if self.transferee not in members:
            self.transferee = NOBODY
        if self._maybe_commit():
            self._broadcast_append()
        else:
            for id in members:
                if id != self.id:
                    self._send_append(id)
