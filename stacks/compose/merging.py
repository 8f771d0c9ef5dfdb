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


_KEYED: dict[str, _Key] = {
    "services.*.ports": lambda port: tuple(port.get(key) for key in ("host_ip", "target", "published", "protocol")),
    "services.*.volumes": lambda mount: mount["target"].rstrip("/"),
    "services.*.tmpfs": lambda text: text.partition(":")[0].rstrip("/"),
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
    made = Items(over.place)
    positions: dict[Hashable, int] = {}
    for items in (base, over):
        for index, each in enumerate(items):
            position = positions.get(key(each)) if key is not None else None
            if position is not None:
                made[position], made.places[position] = each, items.place_of(index)
            elif key is not None or each not in made:
                if key is not None:
                    positions[key(each)] = len(made)
                made.put(each, items.place_of(index))
    return made
