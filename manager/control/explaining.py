"""Why tasks are where they are, or nowhere; and what a rebalance would move: the calls behind `service explain`."""

from collections.abc import Iterable
from typing import Any

from flota.manager.clock import timestamp
from flota.manager.control.base import ControlBase
from flota.manager.control.lookup import find
from flota.manager.control.shown import shown_service, shown_task
from flota.manager.orchestrator.rebalance import Move, plan
from flota.manager.orchestrator.tasks import new_task
from flota.manager.scheduler.demand import Demand
from flota.manager.scheduler.filters import refusals
from flota.manager.scheduler.picture import Picture, picture_of
from flota.manager.store import Transaction
from flota.v1.control_pb2 import (
    ExplainServiceRequest,
    ExplainServiceResponse,
    NodeVerdict,
    RebalanceServicesRequest,
    RebalanceServicesResponse,
    TaskExplanation,
    TaskMove,
)
from flota.v1.objects_pb2 import Service, Task
from flota.v1.types_pb2 import TaskState

# What a person reads, and what fits into an answer whatever the size of the cluster.
MOST_NODES = 200


class Explaining(ControlBase):
    """The calls that look with the scheduler's eyes."""

    async def ExplainService(self, request: ExplainServiceRequest, context: Any) -> ExplainServiceResponse:
        """Every task of a service with what was decided about it, and every node's verdict. Raises NotFound."""
        store = await self._fresh()
        service = find(store.services, "service", request.service_id)
        tasks = store.tasks.by("service", service.id)
        picture = await picture_of(store)
        now = self._clock.now()
        one_more = new_task(store.cluster, service, 0, "", TaskState.TASK_STATE_RUNNING, now, self._rng)
        nodes, left_out = _verdicts(picture, picture.demand_of(one_more))
        answer = ExplainServiceResponse(service=shown_service(service), nodes=nodes, nodes_left_out=left_out)
        told: set[tuple[int, str]] = set()
        for task in sorted(tasks, key=lambda task: (task.slot, task.node_id, task.meta.created_at.ToNanoseconds())):
            explanation = TaskExplanation(task=shown_task(task))
            alike = (task.spec_version.index, task.node_id)
            if _waits_for_a_node(task) and alike not in told:
                # The others of its kind are refused for the same reasons.
                told.add(alike)
                nodes, explanation.nodes_left_out = _verdicts(picture, picture.demand_of(task), task.node_id)
                explanation.nodes.extend(nodes)
            answer.tasks.append(explanation)
        return answer

    async def RebalanceServices(self, request: RebalanceServicesRequest, context: Any) -> RebalanceServicesResponse:
        """What would be moved; unless it is a dry run, also begin to. Raises NotFound."""
        store = await self._fresh()
        asked: Iterable[Service] = store.services
        if request.service_ids:
            asked = [find(store.services, "service", id) for id in request.service_ids]
        picture = await picture_of(store)
        moves = await plan(asked, store, picture, self._clock.now())
        concerned = {move.task.service_id for move in moves}
        if concerned and not request.dry_run:
            await self._commit(lambda tx: self._ask(tx, concerned))
        return RebalanceServicesResponse(moves=map(_move, moves))

    def _ask(self, tx: Transaction, service_ids: Iterable[str]) -> None:
        for id in service_ids:
            service = tx.services.get(id)
            if service is not None and not service.HasField("rebalance_asked"):
                changed = Service()
                changed.CopyFrom(service)
                changed.rebalance_asked.CopyFrom(timestamp(self._clock.now()))
                tx.update(changed)


def _waits_for_a_node(task: Task) -> bool:
    return (
        task.status.state <= TaskState.TASK_STATE_PENDING and task.desired_state <= TaskState.TASK_STATE_COMPLETE
    )  # fmt: skip


def _verdicts(picture: Picture, demand: Demand, node_id: str = "") -> tuple[list[NodeVerdict], int]:
    """The nodes' verdicts, those that refuse least first, and how many more there are."""
    counts = picture.nodes.by_service.get(demand.service_id, {})
    judged = [
        (refusals(demand, info, picture.nodes), info)
        for info in picture.nodes.nodes.values()
        if not node_id or info.id == node_id
    ]
    judged.sort(key=lambda one: (len(one[0]), one[1].node.description.hostname, one[1].id))
    verdicts: list[NodeVerdict] = []
    for refused, info in judged[:MOST_NODES]:
        verdict = NodeVerdict(
            node_id=info.id,
            hostname=info.node.description.hostname,
            tasks_of_service=counts.get(info.id, 0),
            tasks=info.active,
        )
        for refusal in refused:
            verdict.refusals.add(filter=refusal.name, reason=refusal.reason(demand, info, picture.nodes))
        verdicts.append(verdict)
    return verdicts, max(0, len(judged) - MOST_NODES)


def _move(move: Move) -> TaskMove:
    return TaskMove(
        task_id=move.task.id,
        name=f"{move.task.service_annotations.name}.{move.task.slot}",
        from_node_id=move.source.id,
        to_node_id=move.target.id,
        reason=move.why,
    )
