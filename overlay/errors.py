"""What can go wrong in the overlay: a small tree of exceptions with messages for people.

Never raised for what the caller cannot influence: kernel refusals become `KernelRefused` with the kernel's own word.
"""


class OverlayError(Exception):
    """Base of everything `flota.overlay` raises."""


class UnknownNetwork(OverlayError):
    """A task is attached to a network that the node has not been told about (yet): try again after `apply`."""

    def __init__(self, network_id: str) -> None:
        super().__init__(f"network {network_id} is not known on this node")
        self.network_id = network_id


class NotAttached(OverlayError):
    """A task's networks are to be changed, and it has no namespace here (any longer)."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} is not attached to networks of this node")


class BadAddress(OverlayError):
    """An address in an attachment, a network or the configuration cannot be used."""

    def __init__(self, field: str, value: str, allowed: str) -> None:
        super().__init__(f"{field}: {value!r} is not {allowed}")


class KernelRefused(OverlayError):
    """The kernel refused a change; `.errno` says why."""

    def __init__(self, what: str, errno: int, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.errno = errno


class PortTaken(OverlayError):
    """A task's host-mode port cannot be had on this node."""

    def __init__(self, port: int, reason: str) -> None:
        super().__init__(f"published port {port} in host mode cannot be used: {reason}")
        self.port = port


class EncryptionUnavailable(OverlayError):
    """A task is on an encrypted network, and this machine cannot encrypt."""

    def __init__(self) -> None:
        super().__init__(
            "encrypted networks need WireGuard: install wireguard-tools, and wireguard-go if the kernel has none"
        )
