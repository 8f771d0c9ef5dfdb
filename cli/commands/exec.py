"""`flota exec`."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click

from flota.cli import completing
from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.session import Session, talks


@click.command(
    "exec",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    examples=[
        "flota exec -it web sh",
        "flota exec web.2 cat /etc/hosts",
        "flota exec -u 1000 -w /srv -e DEBUG=1 3k1q8w2v0c9d ./check --all",
        "pg_dump shop | flota exec -i db psql shop",
    ],
)
@click.option("-i", "--interactive", is_flag=True, help="Send standard input to the command.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Let it run by itself.")
@click.option("--detach-keys", metavar="KEYS", help="Keys that leave the command running (ctrl-p,ctrl-q).")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="A variable; KEY alone takes it from here.")
@click.option("--env-file", multiple=True, type=click.File("r"), metavar="FILE", help="Variables, one a line.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as this user, not the container's.")
@click.option("-w", "--workdir", default="", metavar="PATH", help="Run in this directory of the container.")
@click.option("--privileged", is_flag=True, help="With all capabilities the node can give.")
@click.argument("task", metavar="TASK|SERVICE[.SLOT]", shell_complete=completing.tasks)
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARG]...")
@talks
async def exec_command(
    session: Session,
    task: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    detach: bool,
    detach_keys: str | None,
    env: tuple[str, ...],
    env_file: tuple[TextIO, ...],
    user: str,
    workdir: str,
    privileged: bool,
) -> None:
    """Run a command in a task's container, on whichever node it is.

    TASK is a task's id or name, SERVICE.SLOT, or a service (its running task in the lowest slot). On a manager any task
    of the swarm will do; on a worker only its own. The exit status is the command's.
    """
    from flota.cli import terminal
    from flota.cli.executing import Conversation
    from flota.cli.service.values import environment, environment_file
    from flota.stacks.errors import BadValue
    from flota.v1.tasks_pb2 import ExecStart

    keys = terminal.detach_keys(terminal.DETACH_KEYS if detach_keys is None else detach_keys)
    if workdir and not workdir.startswith("/"):
        raise BadFlag(f"invalid --workdir {workdir!r}: an absolute path is needed")
    if tty and interactive and not detach and not sys.stdin.isatty():
        raise CommandFailed("--tty with --interactive needs a terminal as standard input: leave --tty out")
    variables: list[str] = []
    try:
        for file in env_file:
            variables += environment_file(file.read(), os.environ)
        variables += environment(env, os.environ)
    except BadValue as error:
        raise BadFlag(error.of("--env")) from None
    start = ExecStart(
        task=task,
        command=command,
        env=[one for one in variables if "=" in one],
        user=user,
        dir=workdir,
        tty=tty,
        stdin=interactive and not detach,
        detach=detach,
        privileged=privileged,
    )
    status = await Conversation(session.tasks.Exec(), start, keys).hold()
    if status:
        raise click.exceptions.Exit(status)
