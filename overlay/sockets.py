"""What the programs of a namespace have to do with TCP, as the kernel shows it.

A program that has ended may still have something to say: the kernel goes on sending it, and ends its connections in
order, for as long as the namespace is there. So that is to wait: else an answer of which a part was still on its way
never arrives, and the client waits for the rest of it for ever.
"""

from collections.abc import Iterator
from pathlib import Path

_NET = Path("/proc/thread-self/net")
# Each takes a millisecond, for the kernel goes through the sockets of all namespaces; the counts take nothing.
_TABLES = ("tcp", "tcp6")
_COUNTS = ("sockstat", "sockstat6")
# include/net/tcp_states.h. Connections whose end the other side has not acknowledged: FIN_WAIT1, LAST_ACK, CLOSING.
_UNSAID = ("04", "09", "0B")
_LISTEN = "0A"
# 127.0.0.0/8 and ::1 end like this, in the order of this machine's words.
_LOOPBACK = ("7F", "00000000000000000000000001000000")


def are_unsaid() -> bool:
    """Whether something is on its way yet, in the namespace that the calling thread is in. Raises OSError."""
    return _count() > 0 and any(state in _UNSAID for _, state in _sockets())


def are_listening(own: int) -> bool:
    """Whether others can connect to a program, in the namespace that the calling thread is in.

    `own`: how many sockets are certainly none of theirs. Raises OSError.
    """
    return _count() > own and any(state == _LISTEN and not at.endswith(_LOOPBACK) for at, state in _sockets())


def _count() -> int:
    """TCP sockets in use (proc(5): "TCP: inuse 1 orphan 0 …", "TCP6: inuse 0")."""
    counts = [_NET / name for name in _COUNTS]
    lines = [line.split() for path in counts if path.exists() for line in path.read_text().splitlines()]
    return sum(int(words[2]) for words in lines if words[0] in ("TCP:", "TCP6:"))


def _sockets() -> Iterator[tuple[str, str]]:
    """Local address and state of each."""
    for name in _TABLES:
        if (_NET / name).exists():
            for line in (_NET / name).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                yield local.partition(":")[0], state
