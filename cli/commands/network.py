"""`flota network`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "create": Lazy("flota.cli.commands.network_create", "create", "Create a network"),
    "ls": Lazy("flota.cli.commands.network_ls", "ls", "List networks"),
    "doctor": Lazy("flota.cli.commands.network_doctor", "doctor", "Look for what is wrong with networks"),
    "inspect": Lazy("flota.cli.commands.network_ls", "inspect", "Show networks in detail"),
    "prune": Lazy("flota.cli.commands.network_prune", "prune", "Remove networks that nobody is on"),
    "rm": Lazy("flota.cli.commands.network_ls", "rm", "Remove networks"),
}


@click.group(cls=Group, lazy=_LAZY)
def network() -> None:
    """Networks that span the nodes."""
