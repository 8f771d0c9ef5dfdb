"""`flota attach`."""

from __future__ import annotations

import sys

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=["flota attach web.1", "flota attach --no-stdin 3k1q8w2v0c9d", "flota attach --detach-keys ctrl-x game"],
)
@click.option("--no-stdin", is_flag=True, help="Only watch.")
@click.option("--detach-keys", metavar="KEYS", help="Keys that leave the task (ctrl-p,ctrl-q).")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to a task without a terminal (so).")
@click.argument("task", metavar="TASK|SERVICE[.SLOT]", shell_complete=completing.tasks)
@talks
async def attach(session: Session, task: str, no_stdin: bool, detach_keys: str | None, sig_proxy: bool) -> None:
    """Input and output of a task's own program from now on; the exit status is the program's.

    Input needs a service that was created with --interactive; without, this only watches.
    """
    from flota.cli import terminal
    from flota.cli.executing import Conversation
    from flota.cli.lookup import Missing
    from flota.cli.lookup import task as find_task
    from flota.v1.tasks_pb2 import AttachStart

    keys = terminal.detach_keys(terminal.DETACH_KEYS if detach_keys is None else detach_keys)
    has_input = False
    if not no_stdin:
        try:
            has_input = (await find_task(session, task)).spec.container.open_stdin
        except Missing:
            from flota.cli.lookup import service as find_service

            name = task.rpartition(".")[0] if task.rpartition(".")[2].isdigit() else task
            has_input = (await find_service(session, name)).spec.task.container.open_stdin
    start = AttachStart(task=task, stdin=has_input)
    if has_input and not sys.stdin.isatty():
        keys = b""
    status = await Conversation(session.tasks.Attach(), start, keys, passes_signals=sig_proxy).hold()
    if status:
        raise click.exceptions.Exit(status)
