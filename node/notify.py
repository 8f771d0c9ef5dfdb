"""Tells the service manager how the daemon is (sd_notify(3)); silent where there is none."""

import os
import socket
from contextlib import suppress

READY = "READY=1"
STOPPING = "STOPPING=1"
_VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Whoever started us and wants to know.

    The address is taken out of the environment: a container runtime that inherits it would wait for the container to
    speak.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop(_VARIABLE, "")

    def tell(self, state: str) -> None:
        """Send `state`."""
        address = self._address
        if not address.startswith(("/", "@")):
            return
        if address.startswith("@"):
            address = f"\0{address[1:]}"
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(state.encode(), address)
