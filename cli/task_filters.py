"""The filters of commands that list tasks: id, name, node, label, desired-state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flota.cli.filters import Filters

if TYPE_CHECKING:
    from flota.v1.objects_pb2 import Task

# The states that managers want tasks to be in.
_STATES = ("ready", "running", "complete", "shutdown", "remove")


def check_states(wanted: Filters) -> None:
    """Raise BadFlag for a desired-state that there is not."""
    wanted.one_of("desired-state", _STATES)


def passes(task: Task, wanted: Filters, nodes: Mapping[str, str]) -> bool:
    """Whether a task is one of those that were asked for; `nodes` maps ids to hostnames."""
    from flota.v1.task_states import short_name

    name = f"{task.service_annotations.name}.{task.slot or task.node_id}"
    return (
        wanted.starts("id", task.id)
        and wanted.starts("name", name, f"{name}.{task.id}")
        and wanted.starts("node", *(word for word in (task.node_id, nodes.get(task.node_id, "")) if word))
        and wanted.labels("label", task.service_annotations.labels)
        and wanted.equals("desired-state", short_name(task.desired_state))
    )
