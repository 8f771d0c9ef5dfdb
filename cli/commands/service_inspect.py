"""`flota service inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flota.cli import completing, lookup
from flota.cli.groups import Command
from flota.cli.inspection import inspect_each
from flota.cli.options import inspect_format_option, pretty_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.v1.objects_pb2 import Service


@click.command(
    cls=Command,
    examples=[
        "flota service inspect web",
        "flota service inspect --pretty web",
        "flota service inspect --format '{{.Spec.TaskTemplate.ContainerSpec.Image}}' web",
    ],
)
@inspect_format_option
@pretty_option
@click.argument("services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=completing.services)
@talks
async def inspect(session: Session, services: tuple[str, ...], form: str | None, pretty: bool) -> None:
    """Show services as JSON in the shape of Docker's API, or for people."""
    from flota.gateway.translation import shown as docker_api

    if not pretty:
        await inspect_each(session, services, lookup.service, docker_api.service, form)
        return
    import asyncio

    from flota.cli.output.pretty_service import pretty_service
    from flota.v1.control_pb2 import ListNetworksRequest, ListServiceStatusesRequest

    networks, answer = await asyncio.gather(
        session.control.ListNetworks(ListNetworksRequest()),
        session.control.ListServiceStatuses(ListServiceStatusesRequest()),
    )
    names = {network.id: network.spec.annotations.name for network in networks.networks}
    updated = {status.service_id: status.updated_tasks for status in answer.statuses}

    def lines(service: Service) -> str:
        return pretty_service(service, names, updated.get(service.id, 0))

    await inspect_each(session, services, lookup.service, docker_api.service, form, lines)
