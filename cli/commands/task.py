"""`flota task`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "ls": Lazy("flota.cli.commands.task_ls", "ls", "List tasks of the whole swarm"),
    "inspect": Lazy("flota.cli.commands.task_inspect", "inspect", "Show tasks in detail"),
    "logs": Lazy("flota.cli.commands.service_logs", "task_logs", "Show what tasks have written"),
    "top": Lazy("flota.cli.commands.task_top", "top", "Show the processes of a task"),
    "kill": Lazy("flota.cli.commands.task_kill", "kill", "Send a signal to tasks"),
}


@click.group(cls=Group, lazy=_LAZY)
def task() -> None:
    """Single tasks: where they are, what they say, what runs in them."""
