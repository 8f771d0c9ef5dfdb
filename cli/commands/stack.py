"""`flota stack`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "deploy": Lazy("flota.cli.commands.stack_deploy", "deploy", "Deploy a stack, or bring it up to date"),
    "ls": Lazy("flota.cli.commands.stack_ls", "ls", "List stacks"),
    "services": Lazy("flota.cli.commands.stack_ls", "services", "List the services of a stack"),
    "ps": Lazy("flota.cli.commands.stack_ps", "ps", "List the tasks of a stack"),
    "rm": Lazy("flota.cli.commands.stack_rm", "rm", "Remove stacks"),
    "diff": Lazy("flota.cli.commands.stack_diff", "diff", "Show what a deploy would change"),
    "history": Lazy("flota.cli.commands.stack_history", "history", "List what was deployed, revision by revision"),
    "rollback": Lazy("flota.cli.commands.stack_history", "rollback", "Bring a stack back to a revision"),
    "config": Lazy("flota.cli.commands.stack_config", "config", "Print the merged and checked Compose file"),
    "export": Lazy("flota.cli.commands.stack_export", "export", "Print a running stack as a Compose file"),
    "lint": Lazy("flota.cli.commands.stack_lint", "lint", "Look for mistakes that can be deployed"),
}


@click.group(cls=Group, lazy=_LAZY, aliases={"up": "deploy", "down": "rm"})
def stack() -> None:
    """Deploy applications from Compose files."""
