"""What a program that has ended still has to say: the kernel goes on sending it, and ends its connections in order.

It does so for as long as the namespace is there, so that is to wait for it: else an answer of which a part was still on
its way never arrives, and the client waits for the rest of it for ever.
"""

from pathlib import Path

_TABLES = (Path("/proc/thread-self/net/tcp"), Path("/proc/thread-self/net/tcp6"))
# Connections whose end the other side has not acknowledged: FIN_WAIT1, LAST_ACK, CLOSING (include/net/tcp_states.h).
_UNSAID = ("04", "09", "0B")


def are_unsaid() -> bool:
    """Whether there are any in the namespace that the calling thread is in. Raises OSError."""
    lines = (line for table in _TABLES if table.exists() for line in table.read_text().splitlines()[1:])
    return any(line.split()[3] in _UNSAID for line in lines)
