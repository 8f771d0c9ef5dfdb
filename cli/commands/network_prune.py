"""`flota network prune`."""

from __future__ import annotations

import time

import click

from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import confirmed, filter_option, force_option
from flota.cli.session import Session, failure_of, talks

_FILTERS = ("until", "label")


@click.command(cls=Command, examples=["flota network prune", "flota network prune --force --filter label=team=shop"])
@filter_option(*_FILTERS)
@force_option
@talks
async def prune(session: Session, filters: tuple[str, ...], force: bool) -> None:
    """Remove networks that no service and no task is on. The default and the ingress network stay.

    --filter until=24h: only those that were made longer ago.
    """
    import grpc

    from flota.cli.output.human import natural
    from flota.cli.times import moment
    from flota.v1.control_pb2 import ListNetworksRequest, ListServicesRequest, RemoveNetworkRequest

    wanted = Filters(filters, _FILTERS)
    until = min((moment(text) for text in wanted.get("until")), default=time.time())
    if not confirmed("This will remove all networks that no service and no task is on.", force):
        return
    answer = await session.control.ListNetworks(ListNetworksRequest(with_use=True))
    services = (await session.control.ListServices(ListServicesRequest())).services
    used = {one.network_id for one in answer.use if one.services or one.tasks}
    # dnsrr services have no address in common, and those with no task now may have some soon.
    used |= {attachment.target for service in services for attachment in service.spec.task.networks}
    removed = []
    for network in sorted(answer.networks, key=lambda network: natural(network.spec.annotations.name)):
        if network.id in used or network.spec.ingress or not wanted.labels("label", network.spec.annotations.labels):
            continue
        if network.meta.created_at.ToNanoseconds() / 1e9 > until:
            continue
        try:
            await session.control.RemoveNetwork(RemoveNetworkRequest(network_id=network.id))
        except grpc.aio.AioRpcError as error:
            # It is in use after all, or the default network; nobody asked for this one by name.
            if error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
                continue
            raise failure_of(error, session.host) from None
        removed.append(network.spec.annotations.name)
    if removed:
        click.echo("Deleted Networks:")
        for name in removed:
            click.echo(name)
