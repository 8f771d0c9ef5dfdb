"""`flota volume`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "ls": Lazy("flota.cli.commands.volume_ls", "ls", "List the volumes of all nodes"),
    "create": Lazy("flota.cli.commands.volume_create", "create", "Make a volume on a node"),
    "inspect": Lazy("flota.cli.commands.volume_ls", "inspect", "All that is known of volumes"),
    "rm": Lazy("flota.cli.commands.volume_rm", "rm", "Remove volumes"),
    "prune": Lazy("flota.cli.commands.volume_rm", "prune", "Remove volumes that nothing uses"),
}


@click.group(cls=Group, lazy=_LAZY)
def volume() -> None:
    """Named volumes. A task makes those it needs; they stay when it has gone."""
