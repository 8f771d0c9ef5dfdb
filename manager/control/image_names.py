"""The syntax of image references: [HOST[:PORT]/]PATH[:TAG][@DIGEST] (distribution's reference grammar). Pure."""

import re

from flota.rpc.errors import InvalidArgument

_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_REFERENCE = re.compile(
    rf"(?P<name>(?:(?P<host>{_HOST})/)?{_PATH_PART}(?:/{_PATH_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_BARE_ID = re.compile(r"[a-f0-9]{64}")
_LONGEST_NAME = 255


def check_image(reference: str) -> None:
    """Raises InvalidArgument that says what is wrong with the reference."""
    if not reference:
        raise InvalidArgument("image is empty: name one, for example busybox:latest")
    if _BARE_ID.fullmatch(reference):
        raise InvalidArgument.of("image", reference, "a name is needed, not the id of an image on one machine")
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        hint = "repository names are lower case; " if reference != reference.lower() else ""
        raise InvalidArgument.of("image", reference, f"{hint}allowed is [HOST[:PORT]/]NAME[:TAG][@DIGEST]")
    if len(found["name"]) > _LONGEST_NAME:
        raise InvalidArgument.of("image", reference, f"its name is longer than {_LONGEST_NAME} characters")
