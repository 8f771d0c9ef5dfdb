"""Which service of a stack comes first: what depends_on says, and otherwise the order of the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flota.v1.types_pb2 import Dependency

CONDITIONS = {
    "service_started": Dependency.CONDITION_STARTED,
    "service_healthy": Dependency.CONDITION_HEALTHY,
    "service_completed_successfully": Dependency.CONDITION_COMPLETED,
}


class Cycle(Exception):
    """Services depend on each other: their names, the first one again at the end."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"services depend on each other: {' → '.join(names)}")
        self.names = names


def in_order(services: Iterable[str], dependencies: Mapping[str, Sequence[str]]) -> list[str]:
    """`services`, each behind all it depends on. Raises Cycle."""
    ordered: list[str] = []
    done: set[str] = set()
    for service in services:
        # Depth first, without recursion: chains may be long. Of each service on the path, what is left to visit.
        path: dict[str, list[str]] = {}
        _enter(service, dependencies, path, done)
        while path:
            current = next(reversed(path))
            if path[current]:
                other = path[current].pop(0)
                if other in path:
                    names = list(path)
                    raise Cycle([*names[names.index(other) :], other])
                _enter(other, dependencies, path, done)
                continue
            del path[current]
            done.add(current)
            ordered.append(current)
    return ordered


def _enter(service: str, dependencies: Mapping[str, Sequence[str]], path: dict[str, list[str]], done: set[str]) -> None:
    if service not in done:
        path[service] = list(dependencies.get(service, ()))
