"""Tells the service manager how the daemon is (sd_notify(3)); silent where there is none.

The address is taken out of the environment: container runtimes that inherit it would wait for the container to speak.
"""

import os
import socket
from contextlib import suppress

READY = "READY=1"
STOPPING = "STOPPING=1"

_address = os.environ.pop("NOTIFY_SOCKET", "")


def notify(state: str) -> None:
    """Send `state` to whoever started us and wants to know."""
    if not _address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), f"\0{_address[1:]}" if _address.startswith("@") else _address)
