"""What a task asks of a node, read once for a whole group of identical tasks; and a node's countable things.

No decisions here. Generic resources follow SwarmKit's design/generic_resources.md: a node offers a count or names of a
kind, a task asks for a number of them, and is told what it got.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flota.v1.objects_pb2 import Task
from flota.v1.specs_pb2 import TaskSpec
from flota.v1.types_pb2 import GenericResource, PlacementStrategy, PortConfig, Resources

Port = tuple[int, int]
SPREAD = PlacementStrategy.PLACEMENT_STRATEGY_SPREAD
BINPACK = PlacementStrategy.PLACEMENT_STRATEGY_BINPACK
# What the name of a volume with affinity may ask for: what is known before the task has a node.
TEMPLATE = re.compile(r"{{\s*\.(Task\.Slot|Service\.Name|Service\.ID)\s*}}")


@dataclass(frozen=True, slots=True)
class Demand:
    """One group's needs. CPU in billionths, memory in bytes, ports as (protocol, published port)."""

    service_id: str = ""
    version: int = 0
    cpu: int = 0
    memory: int = 0
    generic: tuple[tuple[str, int], ...] = ()
    ports: tuple[Port, ...] = ()
    constraints: tuple[str, ...] = ()
    platforms: tuple[tuple[str, str], ...] = ()
    preferences: tuple[str, ...] = ()
    max_replicas: int = 0
    # Fill nodes one after the other instead of spreading; only for tasks that can fill a node.
    binpack: bool = False
    # Ids of services whose tasks it has to be beside, or away from (affinity.py).
    near: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    # Named volumes whose nodes the task goes to, once there are some.
    volumes: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Task, strategy: "PlacementStrategy.ValueType" = SPREAD) -> "Demand":
        """Read a task's needs; `strategy` is the cluster's, for tasks that say nothing."""
        spec = task.spec
        reserved = spec.resources.reservations
        placement = spec.placement
        return cls(
            service_id=task.service_id,
            version=task.spec_version.index,
            cpu=reserved.nano_cpus,
            memory=reserved.memory_bytes,
            generic=_asked(reserved.generic),
            ports=host_ports(task),
            constraints=tuple(placement.constraints),
            platforms=tuple((platform.os, platform.architecture) for platform in placement.platforms),
            preferences=tuple(
                preference.spread.descriptor for preference in placement.preferences if preference.HasField("spread")
            ),
            max_replicas=placement.max_replicas,
            binpack=(placement.strategy or strategy) == BINPACK and fills_nodes(task.spec),
            volumes=bound_volumes(task),
        )


def fills_nodes(spec: TaskSpec) -> bool:
    """Whether a node is full after some number of such tasks; without that there is nothing to pack by."""
    reserved = spec.resources.reservations
    return bool(reserved.nano_cpus or reserved.memory_bytes or reserved.generic or spec.placement.max_replicas)


def bound_volumes(task: Task) -> tuple[str, ...]:
    """The volumes that a task follows. A task whose node is fixed (of a global service) follows none."""
    if task.node_id:
        return ()
    return tuple(_expanded(one.source, task) for one in task.spec.container.mounts if one.volume_node_affinity)


def _expanded(name: str, task: Task) -> str:
    """A volume's name, with what a template in it may ask for (see control/mount_rules)."""
    if "{{" not in name:
        return name
    values = {"Task.Slot": str(task.slot), "Service.Name": task.service_annotations.name, "Service.ID": task.service_id}
    return TEMPLATE.sub(lambda match: values[match[1]], name)


def _asked(generic: Iterable[GenericResource]) -> tuple[tuple[str, int], ...]:
    kinds: dict[str, int] = {}
    for thing in generic:
        kinds[thing.kind] = kinds.get(thing.kind, 0) + (1 if thing.name else thing.count)
    return tuple(sorted((kind, count) for kind, count in kinds.items() if count > 0))


def host_ports(task: Task) -> tuple[Port, ...]:
    """The ports a task takes on its node itself."""
    ports = task.endpoint.ports or task.endpoint.spec.ports
    return tuple(
        (port.protocol, port.published_port)
        for port in ports
        if port.publish_mode == PortConfig.PUBLISH_MODE_HOST and port.published_port
    )


class GenericPool:
    """What is free of a node's generic resources."""

    __slots__ = ("_counts", "_names")

    def __init__(self, resources: Resources) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}
        for thing in resources.generic:
            if thing.name:
                self._names.setdefault(thing.kind, []).append(thing.name)
            else:
                self._counts[thing.kind] = self._counts.get(thing.kind, 0) + thing.count

    def has(self, asked: Iterable[tuple[str, int]]) -> bool:
        """Whether all that is asked for is free. A kind is offered by count or by names, names first."""
        return all(max(len(self._names.get(kind, ())), self._counts.get(kind, 0)) >= count for kind, count in asked)

    def claim(self, asked: Iterable[tuple[str, int]]) -> list[GenericResource]:
        """Take what is asked for (`has` said it is there) and say what it is."""
        given: list[GenericResource] = []
        for kind, count in asked:
            names = self._names.get(kind, [])
            if len(names) >= count:
                given += [GenericResource(kind=kind, name=name) for name in names[:count]]
                del names[:count]
            else:
                self._counts[kind] -= count
                given.append(GenericResource(kind=kind, count=count))
        return given

    def take(self, given: Iterable[GenericResource]) -> None:
        """Take exactly this: it was given to a task before."""
        for thing in given:
            if thing.name:
                names = self._names.get(thing.kind, [])
                if thing.name in names:
                    names.remove(thing.name)
            else:
                self._counts[thing.kind] = self._counts.get(thing.kind, 0) - thing.count

    def give_back(self, given: Iterable[GenericResource], offered: Mapping[tuple[str, str], bool]) -> None:
        """A task has ended. Names the node no longer offers are not free again."""
        for thing in given:
            if not thing.name:
                self._counts[thing.kind] = self._counts.get(thing.kind, 0) + thing.count
            elif offered.get((thing.kind, thing.name)):
                self._names.setdefault(thing.kind, []).append(thing.name)
