"""`flota task ls`."""

from __future__ import annotations

import click

from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import filter_option, format_option, no_resolve_option, no_trunc_option, quiet_option
from flota.cli.session import Session, talks
from flota.cli.task_filters import check_states, passes

_FILTERS = ("id", "name", "node", "label", "desired-state")


@click.command(
    cls=Command,
    examples=["flota task ls", "flota task ls --all --filter node=w1", "flota task ls -q --filter name=web"],
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that are to stop or have ended.")
@filter_option(*_FILTERS)
@format_option
@no_resolve_option
@no_trunc_option
@quiet_option()
@talks
async def ls(
    session: Session,
    everything: bool,
    filters: tuple[str, ...],
    form: str | None,
    no_resolve: bool,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """List the tasks of the whole swarm that run or are about to."""
    wanted = Filters(filters, _FILTERS)
    check_states(wanted)
    import asyncio

    from flota.cli.output.tasks import hostnames, print_tasks
    from flota.v1.control_pb2 import ListNodesRequest, ListTasksRequest
    from flota.v1.task_states import is_terminal, is_wanted

    answer, listed = await asyncio.gather(
        session.control.ListTasks(ListTasksRequest()), session.control.ListNodes(ListNodesRequest())
    )
    names = hostnames(listed.nodes)
    everything = everything or any(one.startswith("desired-state") for one in filters)
    tasks = [task for task in answer.tasks if everything or (is_wanted(task) and not is_terminal(task))]
    print_tasks([task for task in tasks if passes(task, wanted, names)], names, form, quiet, no_trunc, no_resolve)
