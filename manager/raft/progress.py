"""What a leader knows of each follower, and how fast it may send (etcd's progress states).

Theory of operation. `match` is what it certainly has, `next` what it is sent next (nextIndex and matchIndex of the
dissertation, 3.5); match < next always.

PROBE: we do not know where its log ends; one append at a time. REPLICATE: it keeps up, so `next` runs ahead of the
answers (10.2.1's pipelining), bounded by appends and bytes in flight. SNAPSHOT: it needs what we have compacted (5);
nothing until the snapshot has arrived. Whatever is lost leads back to PROBE, and a heartbeat's answer makes room for
one more append, so nothing that is lost can silence a follower that lives.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum


class ProgressState(Enum):
    """See the module's docstring."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass
class Progress:
    """One follower (or the leader itself)."""

    next: int
    match: int = 0
    state: ProgressState = ProgressState.PROBE
    # It answered since the last check of the quorum.
    active: bool = False
    # A probe is on its way.
    paused: bool = False
    # The snapshot it is being sent.
    snapshot_index: int = 0
    # Last index and bytes of each append in flight.
    inflight: deque[tuple[int, int]] = field(default_factory=deque)
    inflight_bytes: int = 0
    max_inflight: int = 256
    max_inflight_bytes: int = 32 << 20

    def blocked(self) -> bool:
        """Nothing may be sent now."""
        if self.state is ProgressState.PROBE:
            return self.paused
        if self.state is ProgressState.REPLICATE:
            return len(self.inflight) >= self.max_inflight or self.inflight_bytes >= self.max_inflight_bytes
        return True

    def sent(self, last: int, size: int) -> None:
        """An append up to `last`, with entries of `size` bytes, has left."""
        if self.state is ProgressState.REPLICATE:
            self.next = last + 1
            self.inflight.append((last, size))
            self.inflight_bytes += size
        elif self.state is ProgressState.PROBE:
            self.paused = True

    def acknowledged(self, index: int) -> bool:
        """It has everything up to `index`; True when that is news."""
        self.paused = False
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, index + 1)
        while self.inflight and self.inflight[0][0] <= index:
            self._landed()
        return news

    def make_room(self) -> None:
        """It lives, but the window is full of appends that may have been lost with all their answers: allow one."""
        while self.state is ProgressState.REPLICATE and self.inflight and self.blocked():
            self._landed()

    def _landed(self) -> None:
        self.inflight_bytes -= self.inflight.popleft()[1]

    def refused(self, index: int, hint: int) -> bool:
        """It refused the append after `index`; False when that is old news."""
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.next = self.match + 1
            return True
        if self.next - 1 != index:
            return False
        self.next = max(min(index, hint + 1), self.match + 1)
        self.paused = False
        return True

    def become_probe(self) -> None:
        """Find out again where its log ends."""
        after = self.match + 1
        if self.state is ProgressState.SNAPSHOT:
            after = max(after, self.snapshot_index + 1)
        self._reset(ProgressState.PROBE)
        self.next = after

    def become_replicate(self) -> None:
        """It keeps up."""
        self._reset(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """It gets the snapshot at `index`."""
        self._reset(ProgressState.SNAPSHOT)
        self.snapshot_index = index

    def _reset(self, state: ProgressState) -> None:
        self.state = state
        self.paused = False
        self.snapshot_index = 0
        self.inflight.clear()
        self.inflight_bytes = 0
