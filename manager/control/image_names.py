"""What may be the image of a service: a name, not the id of an image on one machine. Pure."""

import re

from flota.rpc.errors import InvalidArgument
from flota.v1.image_references import ImageReference

_BARE_ID = re.compile(r"[a-f0-9]{64}")


def check_image(reference: str) -> None:
    """Raises InvalidArgument that says what is wrong with the reference."""
    if not reference:
        raise InvalidArgument("image is empty: name one, for example busybox:latest")
    if _BARE_ID.fullmatch(reference):
        raise InvalidArgument.of("image", reference, "a name is needed, not the id of an image on one machine")
    try:
        ImageReference.parse(reference)
    except ValueError as error:
        raise InvalidArgument.of("image", reference, str(error)) from None
