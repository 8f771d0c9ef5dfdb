"""What an answer 401 asks for: WWW-Authenticate (RFC 9110, 11.6.1). Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|$|(?=,))")


@dataclass(frozen=True)
class Challenge:
    """`scheme` and the names of parameters are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse(headers: Iterable[str]) -> list[Challenge]:
    """All that can be read of them."""
    return [found for header in headers for found in _parse(header)]


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while scheme := _SCHEME.match(header, at):
        at = scheme.end()
        parameters = {}
        while one := _PARAMETER.match(header, at):
            name, quoted, plain = one.groups()
            parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            at = one.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found
