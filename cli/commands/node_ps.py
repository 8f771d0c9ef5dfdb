"""`flota node ps`."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import filter_option, format_option, no_resolve_option, no_trunc_option, quiet_option
from flota.cli.session import Session, talks
from flota.cli.task_filters import check_states, passes

_FILTERS = ("id", "name", "label", "desired-state")


@click.command(
    cls=Command,
    examples=["flota node ps", "flota node ps w1 w2", "flota node ps --filter desired-state=running self"],
)
@filter_option(*_FILTERS)
@format_option
@no_resolve_option
@no_trunc_option
@quiet_option()
@click.argument("nodes", nargs=-1, metavar="[NODE...]", shell_complete=completing.nodes)
@talks
async def ps(
    session: Session,
    nodes: tuple[str, ...],
    filters: tuple[str, ...],
    form: str | None,
    no_resolve: bool,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """List the tasks on nodes (default: self, the node you talk to)."""
    wanted = Filters(filters, _FILTERS)
    check_states(wanted)
    import asyncio

    from flota.cli.output.tasks import hostnames, print_tasks
    from flota.v1.control_pb2 import ListFilters, ListNodesRequest, ListTasksRequest

    found, failures = await lookup.each(session, lookup.node, nodes or ("self",))
    if found:
        request = ListTasksRequest(filters=ListFilters(node_ids=[node.id for node in found]))
        answer, listed = await asyncio.gather(
            session.control.ListTasks(request), session.control.ListNodes(ListNodesRequest())
        )
        names = hostnames(listed.nodes)
        tasks = [task for task in answer.tasks if passes(task, wanted, names)]
        print_tasks(tasks, names, form, quiet, no_trunc, no_resolve)
    lookup.fail_with(failures)
