"""`flota stack ps`."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.failures import CommandFailed
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import filter_option, format_option, no_resolve_option, no_trunc_option, quiet_option
from flota.cli.session import Session, talks
from flota.cli.task_filters import check_states, passes

_FILTERS = ("id", "name", "node", "desired-state")


@click.command(
    cls=Command,
    examples=[
        "flota stack ps shop",
        "flota stack ps --filter desired-state=running --filter node=w1 shop",
        "flota stack ps --no-trunc --format '{{.Name}} {{.Error}}' shop",
    ],
)
@filter_option(*_FILTERS)
@format_option
@no_resolve_option
@no_trunc_option
@quiet_option()
@click.argument("name", metavar="STACK", shell_complete=completing.stacks)
@talks
async def ps(
    session: Session,
    name: str,
    filters: tuple[str, ...],
    form: str | None,
    no_resolve: bool,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """List the tasks of STACK: those that run, and those that ran before them."""
    wanted = Filters(filters, _FILTERS)
    check_states(wanted)
    from flota.cli.output.tasks import hostnames, print_tasks
    from flota.cli.stack.inventory import services_of, tasks_of
    from flota.v1.control_pb2 import ListNodesRequest

    services = await services_of(session, name)
    if not services:
        raise CommandFailed(f"nothing found in stack: {name}")
    tasks = await tasks_of(session, [service.id for service in services])
    names = hostnames((await session.control.ListNodes(ListNodesRequest())).nodes)
    print_tasks([task for task in tasks if passes(task, wanted, names)], names, form, quiet, no_trunc, no_resolve)
