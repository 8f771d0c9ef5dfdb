"""What can be wrong about images, as it goes over the wire (flota.rpc.errors)."""

from flota.rpc.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unavailable


class ImageNotFound(NotFound):
    """No such image on this node. The message is for people."""


class BadImage(InvalidArgument):
    """What was given is no image that can be stored. The message is for people."""


class BadLayer(Exception):
    """A layer cannot be unpacked; becomes a BadImage. The message is for people and names the entry."""


class ImageInUse(FailedPrecondition):
    """Something stands against removing it. The message is for people."""


class PullRefused(PermissionDenied):
    """The registry does not give the image to us. The message is for people, `said` what the registry says."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class RegistryUnavailable(Unavailable):
    """The registry does not do what registries do. The message is for people."""


class RegistryUnreachable(RegistryUnavailable):
    """There is no way to the registry. The message is for people."""
