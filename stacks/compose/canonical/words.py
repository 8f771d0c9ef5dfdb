"""Readers of words with a syntax of their own: images, hostnames, signals, addresses. What the cluster would refuse
after half a deploy is refused here, where the line is known."""

from __future__ import annotations

import ipaddress
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flota.stacks.compose.canonical.leaves import Reader, duration, pairs, texts, unique_texts
from flota.stacks.compose.tree import Items, Map, Spot, text_of
from flota.stacks.units import NANO, parse_duration
from flota.v1.image_references import ImageReference

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ALIAS_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?"
_ALIAS = re.compile(rf"{_ALIAS_LABEL}(?:\.{_ALIAS_LABEL})*")
_BARE_ID = re.compile(r"[a-f0-9]{64}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_SYSCTL = re.compile(r"[a-z0-9_]+(?:[./][a-zA-Z0-9_-]+)+")
_REALTIME = re.compile(r"(?:SIG)?RTM(?:IN(?:\+\d{1,2})?|AX(?:-\d{1,2})?)")
_SIGNALS = frozenset(one.name.removeprefix("SIG") for one in signal.Signals)
ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio"),
    *("rttime", "sigpending", "stack"),
)
_LEAST_NANOSECONDS = NANO // 1000


def _must(value: Any, spot: Spot, good: bool, allowed: str) -> str:
    if not good:
        spot.fail(f"{text_of(value)!r}: {allowed}")
    return text_of(value)


def image(value: Any, spot: Spot) -> str:
    """[HOST[:PORT]/]NAME[:TAG][@DIGEST]; that it is missing is said later."""
    if value:
        try:
            ImageReference.parse(value)
        except ValueError as error:
            spot.fail(f"{value!r} is not an image: {error}")
        if _BARE_ID.fullmatch(value):
            spot.fail(f"{value!r} is the id of an image on one machine: a name is needed")
    return str(value)


def line(value: Any, spot: Spot) -> str:
    """A text that may go into a process: no NUL."""
    return _must(value, spot, "\0" not in text_of(value), "a NUL character cannot be passed on")


def lines(reader: Reader) -> Reader:
    """Texts without NUL."""

    def read(value: Any, spot: Spot) -> Items:
        made: Items = reader(value, spot)
        for index, each in enumerate(made):
            line(each, spot.of(made, index))
        return made

    return read


def hostname(value: Any, spot: Spot) -> str:
    """Labels of DNS; templates are filled in later."""
    text = text_of(value)
    good = not text or "{{" in text or (len(text) <= 253 and bool(_HOSTNAME.fullmatch(text)))
    return _must(value, spot, good, "labels of letters, digits and '-' are needed, joined by dots")


def folder(value: Any, spot: Spot) -> str:
    """An absolute path."""
    text = text_of(value)
    return _must(value, spot, (not text or text.startswith("/")) and "\0" not in text, "an absolute path is needed")


def stop_signal(value: Any, spot: Spot) -> str:
    """A signal's name or number."""
    text = text_of(value)
    upper = text.upper()
    good = upper.removeprefix("SIG") in _SIGNALS or bool(_REALTIME.fullmatch(upper))
    if text.isascii() and text.isdigit():
        good = 1 <= int(text) <= 64
    return _must(value, spot, good or not text, "a name such as SIGTERM or a number from 1 to 64 is needed")


def _each(check: Callable[[str], bool], allowed: str) -> Reader:
    def read(value: Any, spot: Spot) -> Items:
        made = unique_texts(value, spot)
        for index, each in enumerate(made):
            _must(each, spot.of(made, index), check(each), allowed)
        return made

    return read


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_word(text: str) -> bool:
    return bool(text) and not any(character.isspace() for character in text)


dns_servers = _each(_is_address, "an IP address is needed")
dns_search = _each(_is_word, "a domain is needed")
dns_options = _each(_is_word, "an option of resolv.conf is needed, such as ndots:2")


def aliases(value: Any, spot: Spot) -> Items:
    """More names of a service on a network."""
    made = texts(value, spot)
    for index, each in enumerate(made):
        good = len(each) <= 253 and bool(_ALIAS.fullmatch(each))
        _must(each, spot.of(made, index), good, "letters, digits, '-' and '_' are needed, parts joined by dots")
    return made


def address(value: Any, spot: Spot) -> str:
    """An IP address."""
    return _must(value, spot, _is_address(text_of(value)), "an IP address is needed")


def subnet(value: Any, spot: Spot) -> str:
    """A network such as 10.1.2.0/24."""
    try:
        ipaddress.ip_network(text_of(value))
    except ValueError:
        hint = ""
        with suppress(ValueError):
            hint = f"; {ipaddress.ip_network(text_of(value), strict=False)} perhaps?" if "/" in text_of(value) else ""
        spot.fail(f"{text_of(value)!r}: a network such as 10.1.2.0/24 is needed{hint}")
    return text_of(value)


def network_name(value: Any, spot: Spot) -> str:
    """What a network or volume may be called."""
    text = text_of(value)
    good = bool(_NAME.fullmatch(text)) or "{{" in text
    return _must(value, spot, good, "letters, digits, '.', '-' and '_' are needed, beginning with a letter or digit")


def labels(value: Any, spot: Spot) -> Map:
    """A mapping of labels."""
    made: Map = pairs()(value, spot)
    for key in made:
        good = bool(key) and key == key.strip() and key.isprintable() and "=" not in key
        _must(key, spot.of(made, key), good, "a label's key has no '=', no control characters and no spaces around it")
    return made


def environment(value: Any, spot: Spot) -> Map:
    """A mapping of variables; None where whoever deploys gives the value."""
    made: Map = pairs(None)(value, spot)
    for key, each in made.items():
        here = spot.of(made, key)
        _must(key, here, bool(key) and "=" not in key and "\0" not in key, "a variable's name is needed, without '='")
        line(each or "", here)
    return made


def sysctls(value: Any, spot: Spot) -> Map:
    """A mapping of kernel parameters."""
    made: Map = pairs()(value, spot)
    for key in made:
        _must(key, spot.of(made, key), bool(_SYSCTL.fullmatch(key)), "a name such as net.core.somaxconn is needed")
    return made


def health_time(value: Any, spot: Spot) -> str:
    """A duration of a health check: 0 for the default, or at least a millisecond."""
    made = duration(value, spot)
    good = not 0 < parse_duration(made) < _LEAST_NANOSECONDS
    _must(value, spot, good, "0 (the default) or at least 1ms is needed")
    return made
