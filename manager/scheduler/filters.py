"""The filters, in Swarm's order and words: why a node cannot take a task.

`placement` finds nodes quickly; this module is asked when it found none (or for one given node) and counts, filter by
filter, what was in the way. Order and messages: SwarmKit's manager/scheduler/filter.go. Swarm's plugin filter has
nothing to look at here: networks, volumes and logging are built into every worker.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flota.manager.constraint import node_fits
from flota.manager.scheduler.demand import Demand
from flota.manager.scheduler.nodes import NodeInfo, NodeSet, platform_fits


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason why not. `one` and `many` are what people read."""

    name: str
    passes: Callable[[Demand, NodeInfo, NodeSet], bool]
    one: str
    many: str


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


FILTERS = (
    Filter(
        "ready",
        lambda demand, info, nodes: info.ready,
        "1 node not available for new tasks",
        "{n} nodes not available for new tasks",
    ),
    Filter("resources", _has_resources, "insufficient resources on 1 node", "insufficient resources on {n} nodes"),
    Filter(
        "constraints",
        lambda demand, info, nodes: node_fits(demand.constraints, info.node),
        "scheduling constraints not satisfied on 1 node",
        "scheduling constraints not satisfied on {n} nodes",
    ),
    Filter(
        "platform",
        lambda demand, info, nodes: platform_fits(demand.platforms, info.node),
        "unsupported platform on 1 node",
        "unsupported platform on {n} nodes",
    ),
    Filter(
        "host ports",
        lambda demand, info, nodes: not any(port in info.ports for port in demand.ports),
        "host-mode port already in use on 1 node",
        "host-mode port already in use on {n} nodes",
    ),
    Filter(
        "max replicas", _below_max_replicas, "max replicas per node limit exceed", "max replicas per node limit exceed"
    ),
)


def first_refusal(demand: Demand, info: NodeInfo, nodes: NodeSet) -> Filter | None:
    """The first filter that keeps the task from this node, or None if it can go there."""
    return next((one for one in FILTERS if not one.passes(demand, info, nodes)), None)


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
