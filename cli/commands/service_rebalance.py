"""`flota service rebalance`: move running tasks so that nodes have equally many."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.groups import Command
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=["flota service rebalance --dry-run", "flota service rebalance web", "flota service rebalance"],
)
@click.option("--dry-run", is_flag=True, help="Only show what would be moved.")
@click.argument("services", nargs=-1, metavar="[SERVICE...]", shell_complete=completing.services)
@talks
async def rebalance(session: Session, services: tuple[str, ...], dry_run: bool) -> None:
    """Move tasks of services (default: of all) to where fewer are, as few as that takes.

    Each new task runs before the old one stops, so many at a time as the service's update parallelism says.
    """
    from flota.cli.output.tables import Column, print_rows
    from flota.cli.output.tasks import hostnames
    from flota.v1.control_pb2 import ListNodesRequest, RebalanceServicesRequest

    found = await lookup.every(session, lookup.service, services)
    request = RebalanceServicesRequest(service_ids=[service.id for service in found], dry_run=dry_run)
    moves = (await session.control.RebalanceServices(request)).moves
    if not moves:
        click.echo("Nothing to move.")
        return
    names = hostnames((await session.control.ListNodes(ListNodesRequest())).nodes)
    rows = [
        {
            "Task": move.name,
            "From": names.get(move.from_node_id, move.from_node_id),
            "To": names.get(move.to_node_id, move.to_node_id),
            "Why": move.reason,
        }
        for move in moves
    ]
    print_rows((Column("Task", "TASK"), Column("From", "FROM"), Column("To", "TO"), Column("Why", "WHY")), rows)
    if not dry_run:
        click.echo(f"{len(rows)} tasks are being moved; `flota service explain SERVICE` shows how it goes.")
