"""`flota service`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "create": Lazy("flota.cli.commands.service_create", "create", "Create a service"),
    "update": Lazy("flota.cli.commands.service_update", "update", "Change a service"),
    "scale": Lazy("flota.cli.commands.service_scale", "scale", "Set the number of replicas of services"),
    "rollback": Lazy("flota.cli.commands.service_scale", "rollback", "Go back to a service's previous spec"),
    "ls": Lazy("flota.cli.commands.service_ls", "ls", "List services"),
    "ps": Lazy("flota.cli.commands.service_ps", "ps", "List the tasks of services"),
    "inspect": Lazy("flota.cli.commands.service_inspect", "inspect", "Show services in detail"),
    "logs": Lazy("flota.cli.commands.service_logs", "logs", "Show what a service or task has written"),
    "explain": Lazy("flota.cli.commands.service_explain", "explain", "Why tasks are where they are, or wait"),
    "history": Lazy("flota.cli.commands.service_history", "history", "List the specs a service had"),
    "diff": Lazy("flota.cli.commands.service_history", "diff", "Compare two specs a service had"),
    "restart": Lazy("flota.cli.commands.service_running", "restart", "Replace all tasks by new ones"),
    "stop": Lazy("flota.cli.commands.service_running", "stop", "Stop all tasks, and keep the service"),
    "start": Lazy("flota.cli.commands.service_running", "start", "Run a stopped service again"),
    "rebalance": Lazy("flota.cli.commands.service_rebalance", "rebalance", "Move tasks to where fewer are"),
    "rm": Lazy("flota.cli.commands.service_rm", "rm", "Remove services"),
}


@click.group(cls=Group, lazy=_LAZY)
def service() -> None:
    """Run containers on the swarm's nodes, and keep them running."""
