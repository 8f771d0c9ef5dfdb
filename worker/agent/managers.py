"""Which manager to turn to, how long to wait for its answer, and how long before the next try. Pure.

Every session message brings the list of managers. One that failed goes to the end of the line; a session that came
about ends the waiting. Waits grow and are random, so that a cluster's workers do not come back all at once. The address
that worked last is kept whatever managers say: theirs may be ones that this node cannot reach. When all of them have
failed, the addresses that the node joined through have their turn: it may have been told of one manager only, which
went before it told of the others.
"""

from collections.abc import Iterable
from random import Random

from flota.v1.types_pb2 import Peer

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 2.0
_GROWTH = 1.5
# Seconds for the answer to a heartbeat: a leader that is silent for as long is replaced by then, or about to be.
_SHORTEST_PATIENCE = 1.0
_LONGEST_PATIENCE = 8.0


class Managers:
    """The managers of the cluster, as last heard of."""

    def __init__(self, addresses: Iterable[str], rng: Random, last_resort: Iterable[str] = ()) -> None:
        """`addresses` (host:port) are what there is to begin with, `last_resort` what is never forgotten."""
        self._rng = rng
        self._line = list(dict.fromkeys(addresses))
        rng.shuffle(self._line)
        self._wait = _FIRST_WAIT
        self._good = ""
        self._last_resort = list(dict.fromkeys(last_resort))
        # Since the last success, or since all had failed.
        self._failed: set[str] = set()

    def heard(self, peers: Iterable[Peer]) -> None:
        """A manager told who the managers are. An empty list is no news: somebody must have told it."""
        told = list(dict.fromkeys(peer.address for peer in peers if peer.address))
        if not told:
            return
        new = [address for address in told if address not in self._line]
        self._rng.shuffle(new)
        self._line = [address for address in self._line if address in told or address == self._good] + new

    def pick(self) -> str:
        """The one to try now; empty when none is known."""
        everybody = [*self._line, *self._last_resort]
        if self._failed.issuperset(everybody):
            self._failed.clear()
        return next((address for address in everybody if address not in self._failed), "")

    def failed(self, address: str) -> float:
        """It could not be reached, or knows no leader. Seconds to wait before the next try."""
        if address in self._line:
            self._line.remove(address)
            self._line.append(address)
        self._failed.add(address)
        wait = self._wait
        self._wait = min(_LONGEST_WAIT, wait * _GROWTH)
        return wait * self._rng.uniform(0.5, 1.0)

    def succeeded(self, address: str) -> None:
        """A session came about."""
        self._wait = _FIRST_WAIT
        self._good = address
        self._failed.clear()


class Patience:
    """How long a manager may take to answer a heartbeat.

    Short, for a leader that lost power is only noticed by its silence. But one that was merely slow, and goes on with
    the same session, is given twice as long from then on: a cluster whose nodes all come back at once keeps its leader
    slow.
    """

    def __init__(self) -> None:
        self.seconds = _SHORTEST_PATIENCE
        self._session = ""
        self._ran_out = False

    def ran_out(self) -> None:
        """An answer did not come in time."""
        self._ran_out = True

    def opened(self, session_id: str) -> None:
        """There is a session: the one from before, or another leader's."""
        if session_id != self._session:
            self.seconds = _SHORTEST_PATIENCE
        elif self._ran_out:
            self.seconds = min(_LONGEST_PATIENCE, 2 * self.seconds)
        self._session, self._ran_out = session_id, False
