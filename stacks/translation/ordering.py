"""Which service of a stack comes first: what depends_on says, and otherwise the order of the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flota.stacks.compose.tree import Place, Spot

STARTED = "service_started"
HEALTHY = "service_healthy"
COMPLETED = "service_completed_successfully"


@dataclass(frozen=True)
class Dependency:
    """What a service waits for when it is first deployed."""

    service: str
    condition: str
    spot: Spot = field(default=Spot(Place(""), ()), compare=False)


def in_order(services: Iterable[str], dependencies: Mapping[str, Sequence[Dependency]]) -> list[str]:
    """`services`, each behind all it depends on. Raises ComposeError that names a cycle."""
    ordered: list[str] = []
    done: set[str] = set()
    for service in services:
        # Depth first, without recursion: chains may be long. Of each service on the path, what is left to visit.
        path: dict[str, list[Dependency]] = {}
        _enter(service, dependencies, path, done)
        while path:
            current = next(reversed(path))
            if path[current]:
                dependency = path[current].pop(0)
                if dependency.service in path:
                    names = list(path)
                    cycle = [*names[names.index(dependency.service) :], dependency.service]
                    dependency.spot.fail(f"services depend on each other: {' → '.join(cycle)}")
                _enter(dependency.service, dependencies, path, done)
                continue
            del path[current]
            done.add(current)
            ordered.append(current)
    return ordered


def _enter(
    service: str, dependencies: Mapping[str, Sequence[Dependency]], path: dict[str, list[Dependency]], done: set[str]
) -> None:
    if service not in done:
        path[service] = list(dependencies.get(service, ()))
