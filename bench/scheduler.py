"""How quick the scheduler alone is: `python -m bench.scheduler [--runs 3] [--json]`. Pure: no store, one core.

    spread_100k_1k_s        100,000 tasks of one service onto 1,000 nodes
    services_100k_5k_s      100,000 tasks of 500 services onto 5,000 nodes, with constraints, reservations and a spread
                            over two levels (zone, rack)
    one_into_5k_ms          one more task into a full cluster of 5,000 nodes and 100,000 tasks, of a service it knows
    one_constrained_5k_ms   the same, of a service with constraints and a spread over two levels
    swarmkit_one_each_s     1,000 tasks, each a group of its own, onto 1,000 nodes: how SwarmKit's own benchmark asks
    binpack_100k_1k_s       100,000 tasks with reservations packed onto 1,000 nodes

The nodes' picture is built before the clock runs; garbage collection stays on. Times are the process's CPU time (it
has one thread and waits for nothing), so that a busy machine measures the same; of several runs the median counts.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from random import Random

from flota.manager.scheduler.demand import Demand
from flota.manager.scheduler.nodes import NodeSet
from flota.manager.scheduler.placement import Group, Placement
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodeState

GOALS = {"spread_100k_1k_s": 1.0, "services_100k_5k_s": 2.0, "one_into_5k_ms": 2.0}
_CPU = 10**9


def nodes_of(count: int) -> NodeSet:
    """So many nodes in 8 zones of 10 racks, with 64 CPUs and 256 GiB each."""
    nodes = NodeSet()
    for number in range(count):
        node = Node(id=f"node{number:05}")
        node.status.state = NodeState.NODE_STATE_READY
        node.description.hostname = node.id
        node.description.platform.os, node.description.platform.architecture = "linux", "x86_64"
        node.description.resources.nano_cpus = 64 * _CPU
        node.description.resources.memory_bytes = 256 << 30
        labels = node.spec.annotations.labels
        labels["zone"], labels["rack"] = f"z{number % 8}", f"r{number % 80}"
        labels["disk"] = "ssd" if number % 2 else "hdd"
        nodes.put_node(node)
    return nodes


def ids(service: int, count: int) -> list[str]:
    """Ids of tasks."""
    return [f"task{service}.{number}" for number in range(count)]


def constrained(service: int) -> Demand:
    """A demand of one of 500 services."""
    return Demand(
        service_id=f"service{service}",
        version=1,
        cpu=_CPU // 4,
        memory=64 << 20,
        constraints=(f"node.labels.disk=={('ssd', 'hdd')[service % 2]}", f"node.labels.zone!=z{service % 8}"),
        preferences=("node.labels.zone", "node.labels.rack"),
    )


def timed(nodes: NodeSet, groups: Iterable[Group]) -> float:
    """Seconds to place the groups; all of them must find a node."""
    asked = list(groups)
    placement = Placement(nodes, Random(1))
    gc.collect()
    began = time.process_time()
    outcome = placement.place(asked, 0.0)
    took = time.process_time() - began
    assert not outcome.unplaced, outcome.unplaced[0]
    assert len(outcome.placed) == sum(len(group.task_ids) for group in asked)
    return took


def spread() -> float:
    return timed(nodes_of(1000), [Group(Demand(service_id="web", version=1), ids(0, 100_000))])


def services() -> float:
    return timed(nodes_of(5000), [Group(constrained(number), ids(number, 200)) for number in range(500)])


def one_each() -> float:
    demands = [Demand(service_id=f"service{number}", version=1) for number in range(1000)]
    return timed(nodes_of(1000), [Group(demand, ids(at, 1)) for at, demand in enumerate(demands)])


def binpack() -> float:
    demand = Demand(service_id="web", version=1, cpu=_CPU // 2, binpack=True)
    return timed(nodes_of(1000), [Group(demand, ids(0, 100_000))])


def one_more(demand: Demand) -> Callable[[], float]:
    """Milliseconds, median of 200, for one more task of a service that has tasks already."""

    def run() -> float:
        nodes = nodes_of(5000)
        placement = Placement(nodes, Random(1))
        placement.place([Group(constrained(number), ids(number, 200)) for number in range(500)], 0.0)
        placement.place([Group(demand, ids(1000, 10))], 0.0)
        times = []
        for number in range(200):
            began = time.process_time()
            outcome = placement.place([Group(demand, [f"more{number}"])], 0.0)
            times.append(time.process_time() - began)
            assert outcome.placed
        return statistics.median(times) * 1000

    return run


ROWS: dict[str, Callable[[], float]] = {
    "spread_100k_1k_s": spread,
    "services_100k_5k_s": services,
    "one_into_5k_ms": one_more(Demand(service_id="web", version=1, cpu=_CPU // 4)),
    "one_constrained_5k_ms": one_more(constrained(7)),
    "swarmkit_one_each_s": one_each,
    "binpack_100k_1k_s": binpack,
}


def main() -> int:
    """Run all rows and print them."""
    parser = argparse.ArgumentParser(description="How quick the scheduler alone is.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    results: dict[str, float] = {}
    for name, row in ROWS.items():
        results[name] = round(statistics.median(row() for _ in range(arguments.runs)), 4)
        if not arguments.json:
            goal = f"   (goal: {GOALS[name]:g})" if name in GOALS else ""
            print(f"{name:24} {results[name]:9.3f}{goal}", flush=True)
    if arguments.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
