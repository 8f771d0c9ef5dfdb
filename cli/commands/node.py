"""`flota node`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "ls": Lazy("flota.cli.commands.node_ls", "ls", "List the nodes of the swarm"),
    "ps": Lazy("flota.cli.commands.node_ps", "ps", "List the tasks on nodes"),
    "inspect": Lazy("flota.cli.commands.node_inspect", "inspect", "Show nodes in detail"),
    "update": Lazy("flota.cli.commands.node_update", "update", "Change a node: availability, role, labels"),
    "promote": Lazy("flota.cli.commands.node_update", "promote", "Make nodes managers"),
    "demote": Lazy("flota.cli.commands.node_update", "demote", "Make nodes workers"),
    "rm": Lazy("flota.cli.commands.node_rm", "rm", "Remove nodes from the swarm"),
}


@click.group(cls=Group, lazy=_LAZY)
def node() -> None:
    """The machines of the swarm."""
