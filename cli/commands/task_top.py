"""`flota task top`."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    examples=["flota task top web.1", "flota task top web -eo pid,ppid,rss,args"],
)
@click.argument("task", metavar="TASK|SERVICE[.SLOT]", shell_complete=completing.tasks)
@click.argument("arguments", nargs=-1, metavar="[PS OPTIONS]", type=click.UNPROCESSED)
@talks
async def top(session: Session, task: str, arguments: tuple[str, ...]) -> None:
    """Show the processes of a task, as ps on its node shows them (ps -ef unless other options are given)."""
    from flota.cli.output.tables import align
    from flota.v1.tasks_pb2 import TopRequest

    answer = await session.tasks.Top(TopRequest(task=task, ps_arguments=arguments))
    click.echo(align([list(answer.titles), *(list(process.values) for process in answer.processes)]), nl=False)
