"""Merges canonical trees by the specification's rules: what a later file says about a service adds to what an earlier
one said, or replaces it.

Mappings are merged key by key. Lists are appended to, each item once, except: commands and health tests are replaced,
and items with a key of their own (ports, mounts, secrets, configs, …) replace the item with the same key. `!reset`
takes a key away, `!override` replaces a whole value.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from flota.stacks.compose.tree import Items, Map, copy

Path = tuple[str, ...]
_Key = Callable[[Any], Hashable]

_REPLACED = frozenset({"services.*.command", "services.*.entrypoint", "services.*.healthcheck.test"})


def _target(entry: Any) -> Hashable:
    name: str = entry.get("target") or entry["source"]
    return name


def _path(tmpfs: str) -> Hashable:
    return tmpfs.partition(":")[0].rstrip("/")


_KEYED: dict[str, _Key] = {
    "services.*.ports": lambda port: tuple(port.get(key) for key in ("host_ip", "target", "published", "protocol")),
    "services.*.volumes": lambda mount: mount["target"].rstrip("/"),
    "services.*.tmpfs": _path,
    "services.*.secrets": _target,
    "services.*.configs": _target,
    "services.*.env_file": lambda file: file["path"],
    "services.*.label_file": lambda file: file["path"],
    "services.*.deploy.placement.preferences": lambda preference: preference["spread"],
    "services.*.deploy.resources.reservations.generic_resources": lambda resource: resource[
        "discrete_resource_spec"
    ].get("kind"),
    "networks.*.ipam.config": lambda config: config.get("subnet"),
}


def merge(base: Map, over: Map, path: Path = ()) -> Map:
    """A new tree: `base` with `over` laid over it. `path` is where both stand in a document."""
    made = copy(base)
    for key in over.resets:
        made.drop(key)
    for key, value in over.items():
        if key in made and key not in over.overrides:
            value = _merged(made[key], value, (*path, key))
        made.put(key, copy(value), over.place_of(key))
    # Of the marks only those of the last word still say something about what lies below.
    made.resets, made.overrides = set(over.resets), set(over.overrides)
    return made


def _merged(base: Any, over: Any, path: Path) -> Any:
    if isinstance(base, Map) and isinstance(over, Map):
        if path[0] == "services" and path[2:] == ("logging",) and _other_driver(base, over):
            return over
        return merge(base, over, path)
    if isinstance(base, Items) and isinstance(over, Items):
        return _merged_lists(base, over, _pattern(path))
    return over


def _other_driver(base: Map, over: Map) -> bool:
    """Options of one log driver mean nothing to another."""
    return "driver" in base and "driver" in over and base["driver"] != over["driver"]


def _pattern(path: Path) -> str:
    return ".".join([path[0], "*", *path[2:]])


def _merged_lists(base: Items, over: Items, pattern: str) -> Items:
    if pattern in _REPLACED:
        return over
    key = _KEYED.get(pattern)
    return _appended(base, over) if key is None else _keyed(base, over, key)


def _appended(base: Items, over: Items) -> Items:
    made = copy(base)
    for index, each in enumerate(over):
        if each not in base:
            made.put(each, over.place_of(index))
    return made


def _keyed(base: Items, over: Items, key: _Key) -> Items:
    made = Items(over.place)
    positions: dict[Hashable, int] = {}
    for items in (base, over):
        for index, each in enumerate(items):
            # Where variables stay as they are written, a short form may be left: it is its own key.
            name = each if isinstance(each, str) and key is not _path else key(each)
            if name in positions:
                made[positions[name]], made.places[positions[name]] = each, items.place_of(index)
            else:
                positions[name] = len(made)
                made.put(each, items.place_of(index))
    return made
