"""The scheduler's picture of the nodes, made from the tables for a single look: explanations, rebalancing.

The scheduler's own picture belongs to its loop; who wants to ask "what if" makes one of these. It is made from the
state at one moment, in slices, so that other work of the event loop goes on meanwhile.
"""

import asyncio
from dataclasses import dataclass

from flota.manager.scheduler.affinity import Affinities
from flota.manager.scheduler.demand import SPREAD, Demand
from flota.manager.scheduler.nodes import NodeSet
from flota.manager.store import ReadTables
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import TaskState

# Objects between two rounds of the event loop; some 5 ms of work.
_SLICE = 1000


@dataclass
class Picture:
    """All nodes, what is free on each, and the affinities of services."""

    nodes: NodeSet
    affinities: Affinities
    strategy: int = SPREAD

    def demand_of(self, task: Task) -> Demand:
        """What a task asks of a node."""
        return self.affinities.of(task, Demand.of(task, self.strategy))  # type: ignore[arg-type]


async def picture_of(tables: ReadTables) -> Picture:
    """Make one of the tables as they are now."""
    nodes, services, tasks = list(tables.nodes), list(tables.services), list(tables.tasks)
    cluster = next(iter(tables.clusters), None)
    node_set = NodeSet()
    picture = Picture(node_set, Affinities(node_set), cluster.spec.strategy if cluster is not None else SPREAD)
    for at, node in enumerate(nodes):
        node_set.put_node(node)
        if at % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
    for service in services:
        picture.affinities.note(service)
    for at, task in enumerate(tasks):
        node_set.put_task(task)
        if task.status.state in (TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED):
            node_set.note_failure(task)
        if at % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
    return picture
