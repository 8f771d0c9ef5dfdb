"""`flota service ps`."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import filter_option, format_option, no_resolve_option, no_trunc_option, quiet_option
from flota.cli.session import Session, talks
from flota.cli.task_filters import check_states, passes

_FILTERS = ("id", "name", "node", "desired-state")


@click.command(
    cls=Command,
    examples=[
        "flota service ps web",
        "flota service ps --filter desired-state=running --filter node=w1 web worker",
        "flota service ps --no-trunc --format '{{.Name}} {{.Error}}' web",
    ],
)
@filter_option(*_FILTERS)
@format_option
@no_resolve_option
@no_trunc_option
@click.option("--why", is_flag=True, help="Also the newest decision about each task.")
@quiet_option()
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=completing.services)
@talks
async def ps(
    session: Session,
    services: tuple[str, ...],
    filters: tuple[str, ...],
    form: str | None,
    no_resolve: bool,
    no_trunc: bool,
    why: bool,
    quiet: bool,
) -> None:
    """List the tasks of services: those that run, and those that ran before them."""
    wanted = Filters(filters, _FILTERS)
    check_states(wanted)
    import asyncio

    from flota.cli.output.tasks import hostnames, print_tasks
    from flota.v1.control_pb2 import ListFilters, ListNodesRequest, ListTasksRequest

    found, failures = await lookup.each(session, lookup.service, services)
    if found:
        request = ListTasksRequest(filters=ListFilters(service_ids=[service.id for service in found]))
        answer, nodes = await asyncio.gather(
            session.control.ListTasks(request), session.control.ListNodes(ListNodesRequest())
        )
        names = hostnames(nodes.nodes)
        tasks = [task for task in answer.tasks if passes(task, wanted, names)]
        print_tasks(tasks, names, form, quiet, no_trunc, no_resolve, why)
    lookup.fail_with(failures)
