"""The table of tasks: `service ps`, `node ps`, `stack ps`.

Tasks of one slot stand together, the newest first, and the earlier ones below it are marked with ` \\_ `. Columns and
words are Docker's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flota.cli.output.human import capital, ellipsis, natural, short_id, short_image, since
from flota.cli.output.tables import Column, print_rows
from flota.gateway.translation.words import word
from flota.v1.objects_pb2 import Node, Task
from flota.v1.task_states import short_name
from flota.v1.types_pb2 import PortConfig

COLUMNS = (
    Column("ID", "ID"),
    Column("Name", "NAME"),
    Column("Image", "IMAGE"),
    Column("Node", "NODE"),
    Column("DesiredState", "DESIRED STATE"),
    Column("CurrentState", "CURRENT STATE"),
    Column("Error", "ERROR"),
    Column("Ports", "PORTS"),
)
_WHY = Column("Why", "WHY")
_EARLIER = " \\_ "
_LONGEST_ERROR = 30


def hostnames(nodes: Iterable[Node]) -> dict[str, str]:
    """Node ids to the names people know them by."""
    return {node.id: node.description.hostname or node.id for node in nodes}


def display_name(task: Task, no_resolve: bool = False) -> str:
    """web.3, or web.NODE-ID for tasks of global services; with `no_resolve` the service's id in front."""
    service = task.service_id if no_resolve else task.service_annotations.name or task.service_id
    return f"{service}.{task.slot or task.node_id}"


def print_tasks(
    tasks: Iterable[Task],
    nodes: Mapping[str, str],
    form: str | None = None,
    quiet: bool = False,
    no_trunc: bool = False,
    no_resolve: bool = False,
    why: bool = False,
) -> None:
    """Print `tasks`; `nodes` maps ids to hostnames; `why` adds the newest decision about each.

    Raises BadFlag for a bad template.
    """
    ordered = sorted(tasks, key=lambda task: task.meta.version.index, reverse=True)
    ordered.sort(key=lambda task: (task.meta.created_at.seconds, task.meta.created_at.nanos), reverse=True)
    ordered.sort(key=lambda task: natural(display_name(task, no_resolve)))
    rows: list[dict[str, str]] = []
    table = form in (None, "") or str(form).startswith("table")
    above = ""
    for task in ordered:
        name = display_name(task, no_resolve)
        row = _row(task, no_trunc)
        row["Name"] = f"{_EARLIER}{name}" if table and name == above else name
        row["Node"] = task.node_id if no_resolve else nodes.get(task.node_id, task.node_id)
        rows.append(row)
        above = name
    columns = (*COLUMNS, _WHY) if why else COLUMNS
    print_rows(columns, rows, form, quiet, more_headers={_WHY.field: _WHY.header})


def _row(task: Task, no_trunc: bool) -> dict[str, str]:
    status = task.status
    error = status.error if no_trunc else ellipsis(status.error, _LONGEST_ERROR)
    moment = status.timestamp if status.HasField("timestamp") else task.meta.created_at
    unready = " (not ready)" if status.unready else ""
    return {
        "ID": short_id(task.id, no_trunc),
        "Image": short_image(task.spec.container.image, no_trunc),
        "DesiredState": capital(short_name(task.desired_state).lower()),
        "CurrentState": f"{capital(short_name(status.state).lower())}{unready} {since(moment).lower()}",
        "Error": f'"{error}"' if error else "",
        "Why": task.decisions[-1].text if task.decisions else "",
        "Ports": ",".join(
            f"*:{port.published_port}->{port.target_port}/{protocol_word(port)}" for port in status.ports.ports
        ),
    }


def protocol_word(port: PortConfig) -> str:
    """tcp, udp or sctp"""
    return word(PortConfig.Protocol.Name(port.protocol), "PROTOCOL_")
