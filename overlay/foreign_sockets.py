"""Larger buffers for the UDP sockets of a process that was started here and does not ask for them itself.

wireguard-go takes what the machine gives by default (208 KiB). While it waits for a processor, packets come in for
longer than that lasts, and the kernel drops them: a fifth of a TCP stream on two busy cores. The sysctl would change
every socket of the machine; pidfd_getfd(2) (Linux 5.6) changes these.
"""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import closing, suppress

# Bytes, each way; the kernel doubles them, and counts its own overhead in.
BUFFER = 4 << 20
_SYS_PIDFD_GETFD = 438
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

_libc = ctypes.CDLL(None, use_errno=True)


def widen(pid: int) -> int:
    """Give the UDP sockets that process `pid` has now large buffers; how many it has. Raises OSError."""
    count = 0
    for one in _sockets(pid):
        with closing(one):
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_DGRAM:
                one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
                one.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
                count += 1
    return count


def _sockets(pid: int) -> Iterator[socket.socket]:
    """The process's sockets, under descriptors of our own."""
    process = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            # It may have been closed meanwhile.
            with suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    ours = _libc.syscall(_SYS_PIDFD_GETFD, process, int(name), 0)
                    if ours < 0:
                        raise OSError(ctypes.get_errno(), f"a socket of process {pid} cannot be reached")
                    yield socket.socket(fileno=ours)
    finally:
        os.close(process)
