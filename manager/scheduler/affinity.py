"""Affinity between services: `service.NAME==same-node` and `service.NAME==other-node`, turned into service ids.

A task says beside which services' tasks it wants to be, and which it wants to avoid; avoiding is mutual: a service that
others avoid avoids them too, whichever comes first. Only placement looks at this: a task that runs is never evicted
because of what came later. (Docker has no such thing; asked for in swarmkit#1442.)
"""

from collections.abc import Iterable
from dataclasses import replace

from flota.manager.constraint import affinities_of
from flota.manager.scheduler.demand import Demand
from flota.manager.scheduler.nodes import NodeSet
from flota.v1.objects_pb2 import Service, Task


class Affinities:
    """Which services care about which, kept up to date from services."""

    def __init__(self, nodes: NodeSet) -> None:
        self._nodes = nodes
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}
        # Service → names of those it avoids, and the other way round; names of those it wants to be near.
        self._avoids: dict[str, frozenset[str]] = {}
        self._near: dict[str, frozenset[str]] = {}
        self._avoided_by: dict[str, set[str]] = {}

    def note(self, service: Service) -> None:
        """A service is new, or has another spec."""
        name = service.spec.annotations.name
        if self._ids.get(name) != service.id:
            self._ids[name] = service.id
            self._names[service.id] = name
            self._look_again()
        wanted = affinities_of(service.spec.task.placement.constraints)
        avoids = frozenset(each.service for each in wanted if not each.same)
        near = frozenset(each.service for each in wanted if each.same)
        if avoids != self._avoids.get(service.id, frozenset()):
            self._set_avoids(service.id, avoids)
            self._nodes.room += 1
        if near != self._near.get(service.id, frozenset()):
            self._near[service.id] = near
            self._look_again()

    def forget(self, service_id: str) -> None:
        """A service is gone."""
        self._ids.pop(self._names.pop(service_id, ""), None)
        self._set_avoids(service_id, frozenset())
        self._near.pop(service_id, None)
        self._look_again()

    def _set_avoids(self, service_id: str, names: frozenset[str]) -> None:
        for name in self._avoids.pop(service_id, ()):
            self._avoided_by[name].discard(service_id)
        for name in names:
            self._avoided_by.setdefault(name, set()).add(service_id)
        if names:
            self._avoids[service_id] = names

    def _look_again(self) -> None:
        """A task of these services makes room for others that want to be beside it."""
        self._nodes.attracting = {
            self._ids[name] for names in self._near.values() for name in names if name in self._ids
        }

    def of(self, task: Task, demand: Demand) -> Demand:
        """The demand with the affinities of the task, and those of others that concern it."""
        constraints = task.spec.placement.constraints
        avoiding = self._avoided_by.get(task.service_annotations.name, ())
        if not avoiding and not any("service." in expression for expression in constraints):
            return demand
        wanted = affinities_of(constraints)
        apart = {self._ids[each.service] for each in wanted if not each.same and each.service in self._ids}
        # Nothing is beside a service that does not exist: that id is no service's.
        near = {self._ids.get(each.service, f"no service {each.service}") for each in wanted if each.same}
        return replace(demand, near=_sorted(near), apart=_sorted(apart | set(avoiding)))


def _sorted(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(ids))
