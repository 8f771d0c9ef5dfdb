"""`flota simulate`: becomes `python -m flota.simulation`, which this room may not import."""

from __future__ import annotations

import os
import sys

import click

from flota.cli.groups import Command


@click.command(
    cls=Command,
    examples=[
        "flota simulate --nodes 1000 --services plan.yml --fail 10%",
        "flota simulate --nodes 50 --cpus 16 --memory 64g --label zone=a,b,c --services compose.yml --fail 1 --back",
        "flota simulate --nodes 1000 --tasks 30000 --json",
    ],
)
@click.option("--nodes", type=int, metavar="N", help="How many nodes there are (10).")
@click.option("--cpus", type=float, metavar="N", help="CPUs of each (8).")
@click.option("--memory", metavar="SIZE", help="Memory of each (16g).")
@click.option("--label", multiple=True, metavar="KEY=VALUE,…", help="Nodes get one of the values after the other.")
@click.option("--generic-resource", multiple=True, metavar="KIND=N", help="Each node has so many, such as gpu=2.")
@click.option("--services", multiple=True, metavar="FILE", help="Compose file with the services; several are merged.")
@click.option("--tasks", type=int, metavar="N", help="Also a service of N tasks that ask for nothing.")
@click.option("--fail", metavar="N|N%", help="Then so many nodes die, chosen by chance.")
@click.option("--back", is_flag=True, help="Then they come back.")
@click.option("--start-time", metavar="DURATION", help="How long a task takes to start (1.5s).")
@click.option("--seed", type=int, metavar="N", help="Of all chance (1); the same seed gives the same result.")
@click.option("--json", is_flag=True, help="For programs.")
def simulate(**flags: object) -> None:
    """What would happen: the cluster's own decisions on virtual time, with nodes that only pretend.

    Ends with status 1 when tasks are left that found no node.
    """
    arguments: list[str] = []
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif isinstance(value, tuple):
            arguments += [f"{flag}={one}" for one in value]
        elif value is not None and value is not False:
            arguments.append(f"{flag}={value}")
    os.execv(sys.executable, [sys.executable, "-P", "-m", "flota.simulation", *arguments])
