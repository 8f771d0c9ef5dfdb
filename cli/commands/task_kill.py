"""`flota task kill`."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.session import Session, failure_of, talks


@click.command(cls=Command, examples=["flota task kill web.2", "flota task kill --signal HUP 3k1q8w2v0c9d"])
@click.option("-s", "--signal", default="KILL", metavar="SIGNAL", help="A name or a number (KILL).")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK|SERVICE.SLOT...", shell_complete=completing.tasks)
@talks
async def kill(session: Session, tasks: tuple[str, ...], signal: str) -> None:
    """Send a signal to the programs of tasks. One that ends is replaced as its service's restart policy says."""
    import grpc

    from flota.cli.lookup import fail_with
    from flota.v1.tasks_pb2 import SignalTaskRequest

    failures = []
    for task in tasks:
        try:
            await session.tasks.SignalTask(SignalTaskRequest(task=task, signal=signal))
            click.echo(task)
        except grpc.aio.AioRpcError as error:
            failures.append(str(failure_of(error, session.host)))
    fail_with(failures)
