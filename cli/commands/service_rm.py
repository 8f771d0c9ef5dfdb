"""`flota service rm`."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.groups import Command
from flota.cli.session import Session, talks
from flota.cli.several import remove_each


@click.command(cls=Command, examples=["flota service rm web worker"])
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=completing.services)
@talks
async def rm(session: Session, services: tuple[str, ...]) -> None:
    """Remove services and their tasks."""
    from flota.v1.control_pb2 import RemoveServiceRequest

    async def remove(wanted: str) -> None:
        found = await lookup.service(session, wanted)
        await session.control.RemoveService(RemoveServiceRequest(service_id=found.id))

    await remove_each(session, services, remove)
