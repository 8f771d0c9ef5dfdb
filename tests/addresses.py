"""Addresses for servers of tests: nobody else on this machine has them, or gets them while this process lives.

A port that the kernel gives to whoever binds 0 is anybody's as soon as it is let go of: another test's, or the own end
of a connection. A server that is started by another process, or started again, may then find it taken.
"""

import random
import socket
from contextlib import suppress

# Connections take their own ends from 32768 on (net.ipv4.ip_local_port_range).
_PORTS = range(20000, 32000)
_held: list[socket.socket] = []


def reserve(name: str) -> bool:
    """Take a name for this process, for as long as it lives. False when another process, or this one, has it."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        # Bound to no file, so nothing is left by whoever dies.
        holder.bind(f"\0flota-tests/{name}")
    except OSError:
        holder.close()
        return False
    _held.append(holder)
    return True


def free_address(host: str = "127.0.0.1") -> str:
    """HOST:PORT where nobody listens, each time another one."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            if reserve(f"port {port}"):
                return f"{host}:{port}"
