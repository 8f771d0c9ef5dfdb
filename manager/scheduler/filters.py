"""The filters, in Swarm's order and words: why a node cannot take a task.

`placement` finds nodes quickly; this module is asked when it found none (or for one given node) and counts, filter by
filter, what was in the way. Order and messages: SwarmKit's manager/scheduler/filter.go. Swarm's plugin filter has
nothing to look at here: networks, volumes and logging are built into every worker. The last filter is about local
volumes with affinity (Swarm's is about those of CSI).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flota.manager.constraint import node_fits
from flota.manager.scheduler.demand import Demand
from flota.manager.scheduler.nodes import NodeInfo, NodeSet, affinity_fits, platform_fits
from flota.v1.types_pb2 import NodeAvailability, NodePressure, NodeState

MIB = 1 << 20
_SHORT = {
    NodePressure.NODE_PRESSURE_DISK: "disk space",
    NodePressure.NODE_PRESSURE_MEMORY: "memory",
    NodePressure.NODE_PRESSURE_PIDS: "process numbers",
}


Test = Callable[[Demand, NodeInfo, NodeSet], bool]


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason why not. `one` and `many` are what people read of nodes, `reason` of one node in particular."""

    name: str
    passes: Test
    one: str
    many: str
    reason: Callable[[Demand, NodeInfo, NodeSet], str]


def _has_resources(demand: Demand, info: NodeInfo, nodes: NodeSet) -> bool:
    return (
        (not demand.cpu or info.cpu >= demand.cpu)
        and (not demand.memory or info.memory >= demand.memory)
        and (not demand.generic or info.generic.has(demand.generic))
    )


def _below_max_replicas(demand: Demand, info: NodeInfo, nodes: NodeSet) -> bool:
    if not demand.max_replicas:
        return True
    return nodes.by_service.get(demand.service_id, {}).get(info.id, 0) < demand.max_replicas


def _why_not_ready(demand: Demand, info: NodeInfo, nodes: NodeSet) -> str:
    state = NodeState.Name(info.node.status.state)[len("NODE_STATE_") :].lower()
    active = info.node.spec.availability == NodeAvailability.NODE_AVAILABILITY_ACTIVE
    if info.node.status.state == NodeState.NODE_STATE_READY and active:
        short = [_SHORT.get(one, "something") for one in info.node.description.pressures]
        return f"it is about to run out of {' and '.join(short)}"
    availability = NodeAvailability.Name(info.node.spec.availability)[len("NODE_AVAILABILITY_") :].lower()
    return (
        f"it is {state}"
        if info.node.status.state != NodeState.NODE_STATE_READY
        else f"its availability is {availability}"
    )


def _what_lacks(demand: Demand, info: NodeInfo, nodes: NodeSet) -> str:
    lacks = []
    if demand.cpu and info.cpu < demand.cpu:
        lacks.append(f"{demand.cpu / 1e9:g} CPUs are asked for, {max(info.cpu, 0) / 1e9:g} are free")
    if demand.memory and info.memory < demand.memory:
        lacks.append(f"{demand.memory / MIB:g} MiB are asked for, {max(info.memory, 0) / MIB:.0f} are free")
    if demand.generic and not info.generic.has(demand.generic):
        lacks.append("asked for are " + ", ".join(f"{count} {kind}" for kind, count in demand.generic))
    return "; ".join(lacks)


def _broken_constraints(demand: Demand, info: NodeInfo, nodes: NodeSet) -> str:
    return ", ".join(each for each in demand.constraints if not node_fits((each,), info.node))


def _other_platform(demand: Demand, info: NodeInfo, nodes: NodeSet) -> str:
    own = info.node.description.platform
    asked = ", ".join(f"{os or 'any'}/{arch or 'any'}" for os, arch in demand.platforms)
    return f"it is {own.os}/{own.architecture}, the image is for {asked}"


def _ports_in_use(demand: Demand, info: NodeInfo, nodes: NodeSet) -> str:
    return "in use: " + ", ".join(str(port[1]) for port in demand.ports if port in info.ports)


def _wrong_company(demand: Demand, info: NodeInfo, nodes: NodeSet) -> str:
    apart = [one for one in demand.apart if nodes.by_service.get(one, {}).get(info.id)]
    return "a service it avoids has tasks there" if apart else "the service it wants to be beside has no task there"


def _other_holders(demand: Demand, info: NodeInfo, nodes: NodeSet) -> str:
    missing = [name for name in demand.volumes if not nodes.has_volumes(info.id, (name,))]
    return ", ".join(f"volume {name} is on {' and '.join(nodes.hostnames_of(name))}" for name in missing)


FILTERS = (
    Filter(
        "ready",
        lambda demand, info, nodes: info.ready,
        "1 node not available for new tasks",
        "{n} nodes not available for new tasks",
        _why_not_ready,
    ),
    Filter(
        "resources",
        _has_resources,
        "insufficient resources on 1 node",
        "insufficient resources on {n} nodes",
        _what_lacks,
    ),
    Filter(
        "constraints",
        lambda demand, info, nodes: node_fits(demand.constraints, info.node),
        "scheduling constraints not satisfied on 1 node",
        "scheduling constraints not satisfied on {n} nodes",
        _broken_constraints,
    ),
    Filter(
        "platform",
        lambda demand, info, nodes: platform_fits(demand.platforms, info.node),
        "unsupported platform on 1 node",
        "unsupported platform on {n} nodes",
        _other_platform,
    ),
    Filter(
        "host ports",
        lambda demand, info, nodes: not any(port in info.ports for port in demand.ports),
        "host-mode port already in use on 1 node",
        "host-mode port already in use on {n} nodes",
        _ports_in_use,
    ),
    Filter(
        "max replicas",
        _below_max_replicas,
        "max replicas per node limit exceed",
        "max replicas per node limit exceed",
        lambda demand, info, nodes: f"it has {demand.max_replicas} already, the most that are allowed",
    ),
    Filter(
        "affinity",
        affinity_fits,
        "affinity to services not satisfied on 1 node",
        "affinity to services not satisfied on {n} nodes",
        _wrong_company,
    ),
    Filter(
        "volumes",
        lambda demand, info, nodes: nodes.has_volumes(info.id, demand.volumes),
        "its volumes are not on 1 node",
        "its volumes are not on {n} nodes",
        _other_holders,
    ),
)


def first_refusal(demand: Demand, info: NodeInfo, nodes: NodeSet) -> Filter | None:
    """The first filter that keeps the task from this node, or None if it can go there."""
    return next((one for one in FILTERS if not one.passes(demand, info, nodes)), None)


def refusals(demand: Demand, info: NodeInfo, nodes: NodeSet) -> list[Filter]:
    """Every filter that keeps the task from this node."""
    return [one for one in FILTERS if not one.passes(demand, info, nodes)]


def explain(demand: Demand, infos: Iterable[NodeInfo], nodes: NodeSet) -> str:
    """Why no node of `infos` can take the task: "no suitable node (X; Y)", most frequent reason first."""
    refused = Counter(refusal.name for info in infos if (refusal := first_refusal(demand, info, nodes)) is not None)
    words = {one.name: one for one in FILTERS}
    order = {one.name: place for place, one in enumerate(FILTERS)}
    reasons = [
        words[name].one if count == 1 else words[name].many.format(n=count)
        for name, count in sorted(refused.items(), key=lambda item: (-item[1], order[item[0]]))
    ]
    return f"no suitable node ({'; '.join(reasons)})" if reasons else "no suitable node"
