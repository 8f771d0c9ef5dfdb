"""Where images of a name are to be had: what registries.conf(5) says of mirrors, other places and plain HTTP.

The file and its drop-ins are those that skopeo and Podman read, found where they look for them. Short names are not
looked up: ours are whole. `Configuration.endpoints` is pure.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flota.v1.image_references import ImageReference
from flota.worker.images.errors import PullRefused, RegistryUnavailable

_FILE = "containers/registries.conf"
_WHICH = ("all", "digest-only", "tag-only")


@dataclass(frozen=True)
class Endpoint:
    """A repository somewhere: what is asked for is below HOST/v2/PATH."""

    host: str
    path: str
    # It may speak plain HTTP, or show any certificate.
    insecure: bool = False


@dataclass(frozen=True)
class _Place:
    location: str
    insecure: bool
    # Of a mirror: for which references it is asked.
    which: str = "all"


@dataclass(frozen=True)
class _Rule:
    """One [[registry]]."""

    prefix: str
    place: _Place
    blocked: bool = False
    mirrors: tuple[_Place, ...] = ()


@dataclass(frozen=True)
class Configuration:
    """What the files say."""

    rules: tuple[_Rule, ...] = field(default=())

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "Configuration":
        """Blocks. Raises RegistryUnavailable that names the file."""
        rules: dict[str, _Rule] = {}
        for file in _files(environment):
            try:
                document = tomllib.loads(file.read_text())
                rules.update((rule.prefix, rule) for rule in _rules(document))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise RegistryUnavailable(f"images cannot be pulled: {file}: {error}") from None
        return cls(tuple(rules.values()))

    def endpoints(self, name: ImageReference, insecure: Collection[str]) -> list[Endpoint]:
        """In the order in which they are to be asked, the registry itself last; `insecure` are hosts that may be so.

        Raises PullRefused (it is blocked).
        """
        best: tuple[int, _Rule] | None = None
        for one in self.rules:
            length = _match(name.name, one.prefix)
            if length and (best is None or len(one.prefix) > len(best[1].prefix)):
                best = length, one
        if best is None:
            return [Endpoint(name.host, name.path, is_insecure(name.host, insecure))]
        length, rule = best
        if rule.blocked:
            said = "registries.conf(5) on this machine blocks it"
            raise PullRefused(f"{name.familiar} is not pulled: {said}", said)
        unwanted = "tag-only" if name.digest else "digest-only"
        places = [one for one in rule.mirrors if one.which != unwanted] + [rule.place]
        found = []
        for place in places:
            where = (place.location or name.name[:length]) + name.name[length:]
            host, _, path = where.partition("/")
            found.append(Endpoint(host, path, place.insecure or is_insecure(host, insecure)))
        return found


def is_insecure(host: str, named: Collection[str]) -> bool:
    """Whether a registry at HOST[:PORT] need not be trusted: it is `named`, or on this machine."""
    address = re.sub(r":\d+$", "", host)
    if host in named or address in named or address == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    return False


def _files(environment: Mapping[str, str]) -> list[Path]:
    """Later ones win."""
    for key in ("CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH"):
        if environment.get(key):
            return [Path(environment[key])]
    file = Path("/etc", _FILE)
    home = environment.get("HOME")
    own = Path(home, ".config", _FILE) if home else None
    if own is not None and own.exists():
        file = own
    places = [Path("/etc", f"{_FILE}.d")] + ([own.with_name(f"{own.name}.d")] if own is not None else [])
    return [file, *(one for place in places for one in sorted(place.glob("*.conf")))]


def _match(name: str, prefix: str) -> int:
    """How many characters of `name` a prefix stands for; 0 = it is for others."""
    if prefix.startswith("*."):
        host = name.partition("/")[0].partition(":")[0]
        ending, slash, rest = prefix[1:].partition("/")
        # Only hosts have wildcards; what follows a host in a prefix is as it is.
        if slash or rest or not host.endswith(ending) or host == ending:
            return 0
        return len(host)
    if name.startswith(prefix) and (len(name) == len(prefix) or name[len(prefix)] in "/:@"):
        return len(prefix)
    return 0


def _rules(document: Mapping[str, Any]) -> list[_Rule]:
    """Raises ValueError."""
    found = []
    for entry in _tables(document, "registry"):
        place = _place(entry)
        prefix = _text(entry, "prefix") or place.location
        if not prefix or (not place.location and not prefix.startswith("*.")):
            raise ValueError("a [[registry]] without location")
        digest_only = _flag(entry, "mirror-by-digest-only")
        mirrors = tuple(_place(one, "digest-only" if digest_only else "all") for one in _tables(entry, "mirror"))
        if any(not one.location for one in mirrors):
            raise ValueError(f"a [[registry.mirror]] of {prefix} without location")
        found.append(_Rule(prefix, place, _flag(entry, "blocked"), mirrors))
    # The form of before 2018.
    for key in ("insecure", "block"):
        old = document.get("registries", {})
        for host in old.get(key, {}).get("registries", ()) if isinstance(old, Mapping) else ():
            found.append(_Rule(str(host), _Place(str(host), key == "insecure"), key == "block"))
    return found


def _place(entry: Mapping[str, Any], which: str = "all") -> _Place:
    said = _text(entry, "pull-from-mirror") or which
    if said not in _WHICH:
        raise ValueError(f"invalid pull-from-mirror {said!r}: {', '.join(_WHICH)} are allowed")
    return _Place(_text(entry, "location").rstrip("/"), _flag(entry, "insecure"), said)


def _tables(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = document.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise ValueError(f"{key} is no list of tables")
    return found


def _text(entry: Mapping[str, Any], key: str) -> str:
    found = entry.get(key, "")
    if not isinstance(found, str):
        raise ValueError(f"{key} is no text")
    return found


def _flag(entry: Mapping[str, Any], key: str) -> bool:
    found = entry.get(key, False)
    if not isinstance(found, bool):
        raise ValueError(f"{key} is neither true nor false")
    return found
