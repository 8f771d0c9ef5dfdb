"""`flota stack export`."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.failures import CommandFailed
from flota.cli.groups import Command
from flota.cli.session import Session, talks


@click.command(cls=Command, examples=["flota stack export shop > compose.yml"])
@click.argument("name", metavar="STACK", shell_complete=completing.stacks)
@talks
async def export(session: Session, name: str) -> None:
    """Print the Compose file of STACK as it is now.

    Secrets are named, not shown. Deployed again under the same name, the file changes nothing.
    """
    from flota.cli.stack.inventory import inventory
    from flota.stacks.compose.writing import to_yaml
    from flota.stacks.translation import exporting
    from flota.v1.control_pb2 import ListNetworksRequest

    there = await inventory(session, name)
    if not there.services:
        raise CommandFailed(f"nothing found in stack: {name}")
    networks = (await session.control.ListNetworks(ListNetworksRequest())).networks
    specs = [service.spec for service in there.services.values()]
    made = exporting.export(name, specs, {network.id: network for network in networks}, there.configs)
    click.echo(to_yaml(made.tree), nl=False)
    for warning in made.warnings:
        click.echo(f"Warning: {warning}", err=True)
