"""`flota swarm`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "init": Lazy("flota.cli.commands.swarm_init", "init", "Begin a swarm with this node as its first manager"),
    "join": Lazy("flota.cli.commands.swarm_join", "join", "Make this node part of a swarm"),
    "leave": Lazy("flota.cli.commands.swarm_join", "leave", "Take this node out of its swarm"),
    "join-token": Lazy("flota.cli.commands.swarm_token", "join_token", "Show how nodes join, or change the token"),
    "update": Lazy("flota.cli.commands.swarm_update", "update", "Change the swarm's configuration"),
    "unlock": Lazy("flota.cli.commands.swarm_lock", "unlock", "Give a locked manager its key"),
    "unlock-key": Lazy("flota.cli.commands.swarm_lock", "unlock_key", "Show or change the key of locked managers"),
    "ca": Lazy("flota.cli.commands.swarm_ca", "ca", "Show or replace the swarm's root certificate"),
}


@click.group(cls=Group, lazy=_LAZY)
def swarm() -> None:
    """Begin, join, leave and configure a swarm."""
