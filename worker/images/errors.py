"""What can be wrong about images, as it goes over the wire (flota.rpc.errors)."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from flota.rpc.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from flota.worker.images.compression import Damaged

# What an OSError has when the disk is full.
FULL = (errno.ENOSPC, errno.EDQUOT)


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


@contextmanager
def said_in_words() -> Iterator[None]:
    """Errors of files and archives, as callers have them."""
    try:
        yield
    except Damaged as error:
        raise BadImage(str(error)) from None
    except OSError as error:
        if error.errno in FULL:
            raise ResourceExhausted(f"no space is left for images on this node: {error}") from None
        raise Internal(f"the image store: {error}") from None
