"""What `service explain` prints: a service, its tasks with what was decided about them, and nodes' verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flota.cli.output.human import since
from flota.cli.output.services import mode_words
from flota.cli.output.tables import align
from flota.gateway.translation.words import word
from flota.v1.control_pb2 import ExplainServiceResponse, NodeVerdict
from flota.v1.objects_pb2 import Service, Task
from flota.v1.task_states import short_name
from flota.v1.types_pb2 import Decision, TaskState, UpdateStatus

_MOST_NODES = 50


def explanation(answer: ExplainServiceResponse, names: Mapping[str, str], history: bool, nodes: bool) -> str:
    """All lines; `names` maps ids of nodes to hostnames."""
    lines = list(_service(answer.service))
    shown = [each for each in answer.tasks if history or each.task.desired_state <= TaskState.TASK_STATE_COMPLETE]
    for each in shown:
        lines += ["", _task(each.task, names), *_decisions(each.task.decisions)]
        if each.nodes:
            lines += _verdicts(each.nodes, each.nodes_left_out)
    left_out = len(answer.tasks) - len(shown)
    if left_out:
        lines += ["", f"{left_out} older tasks are not shown; --history shows them"]
    if nodes:
        lines += ["", "one more task:", *_verdicts(answer.nodes, answer.nodes_left_out)]
    return "\n".join(lines) + "\n"


def _service(service: Service) -> Iterable[str]:
    spec = service.spec
    yield f"{spec.annotations.name}: {mode_words(service)}" + (", stopped" if spec.stopped else "")
    if service.waits_for:
        yield f"waits for {service.waits_for}"
    if service.update_status.state:
        state = word(UpdateStatus.State.Name(service.update_status.state), "STATE_", "_").replace("_", " ")
        yield f"update: {state}: {service.update_status.message}"
    if service.HasField("rebalance_asked"):
        yield f"rebalance: under way, asked for {since(service.rebalance_asked).lower()}"
    yield from _decisions(service.decisions)


def _task(task: Task, names: Mapping[str, str]) -> str:
    place = task.slot or names.get(task.node_id, task.node_id)
    where = f" on {names.get(task.node_id, task.node_id)}" if task.node_id else ""
    status = task.status
    state = short_name(status.state).lower() + (", not ready" if status.unready else "")
    if short_name(task.desired_state) != short_name(status.state):
        state += f", wanted {short_name(task.desired_state).lower()}"
    text = status.error or (status.message if status.state == TaskState.TASK_STATE_PENDING else "")
    return f"{task.service_annotations.name}.{place}  {task.id[:12]}  {state}{where}" + (f": {text}" if text else "")


def _decisions(decisions: Iterable[Decision]) -> list[str]:
    rows = [[f"  {since(each.at).lower()}", each.by, each.text] for each in decisions]
    return align(rows).splitlines() if rows else []


def _verdicts(verdicts: Sequence[NodeVerdict], left_out: int) -> list[str]:
    rows = [["  NODE", "TASKS", "VERDICT"]]
    for verdict in verdicts[:_MOST_NODES]:
        says = "; ".join(f"{each.filter}: {each.reason}" for each in verdict.refusals) or "fits"
        counts = f"{verdict.tasks_of_service} of {verdict.tasks}"
        rows.append([f"  {verdict.hostname or verdict.node_id}", counts, says])
    lines = align(rows).splitlines()
    more = len(verdicts) + left_out - _MOST_NODES
    if more > 0:
        lines.append(f"  … and {more} more nodes, which refuse no less")
    return lines
