"""`flota network ls`, `inspect` and `rm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flota.cli import completing, lookup
from flota.cli.failures import CommandFailed
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.inspection import inspect_each
from flota.cli.options import (
    confirmed,
    filter_option,
    format_option,
    inspect_format_option,
    no_trunc_option,
    quiet_option,
)
from flota.cli.output.tables import Column, print_rows
from flota.cli.session import Session, talks
from flota.cli.several import remove_each

if TYPE_CHECKING:
    from flota.v1.objects_pb2 import Network

_FILTERS = ("id", "name", "label", "driver", "scope", "type")
_COLUMNS = (
    Column("ID", "NETWORK ID"),
    Column("Name", "NAME"),
    Column("Driver", "DRIVER"),
    Column("Scope", "SCOPE"),
    Column("Use", "USE"),
)
_INGRESS_GOES = (
    "{name} is the ingress network: without it no port can be published on every node, until another one is made "
    "(flota network create --ingress)."
)
_MORE = {
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Ingress": "INGRESS",
    "Subnets": "SUBNETS",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}


@click.command(
    cls=Command,
    examples=[
        "flota network ls",
        "flota network ls --filter label=team=shop",
        "flota network ls --format '{{.Name}} {{.Subnets}}'",
    ],
)
@filter_option(*_FILTERS)
@format_option
@no_trunc_option
@quiet_option()
@talks
async def ls(session: Session, filters: tuple[str, ...], form: str | None, no_trunc: bool, quiet: bool) -> None:
    """List networks."""
    wanted = Filters(filters, _FILTERS)
    wanted.one_of("scope", ("swarm",))
    wanted.one_of("type", ("custom", "builtin"))
    from flota.cli.output.human import natural
    from flota.v1.control_pb2 import ListNetworksRequest

    answer = await session.control.ListNetworks(ListNetworksRequest(with_use=True))
    use = {one.network_id: f"{one.used}/{one.size}" for one in answer.use if one.size}
    networks = [
        network
        for network in answer.networks
        if wanted.starts("id", network.id)
        and wanted.starts("name", network.spec.annotations.name)
        and wanted.labels("label", network.spec.annotations.labels)
        and wanted.equals("driver", network.spec.driver.name or "overlay")
        and wanted.equals("type", "builtin" if network.spec.ingress else "custom")
    ]
    networks.sort(key=lambda network: natural(network.spec.annotations.name))
    labels = [network.spec.annotations.labels for network in networks]
    print_rows(
        _COLUMNS, [_row(network, use.get(network.id, ""), no_trunc) for network in networks], form, quiet, _MORE, labels
    )


def _row(network: Network, use: str, no_trunc: bool) -> dict[str, str]:
    from flota.cli.output.human import labels_text, short_id
    from flota.gateway.translation.words import iso_time

    spec = network.spec
    return {
        "ID": short_id(network.id, no_trunc),
        "Name": spec.annotations.name,
        "Driver": spec.driver.name or "overlay",
        "Scope": "swarm",
        # Addresses given out, of how many.
        "Use": use,
        "IPv6": str(spec.ipv6_enabled).lower(),
        "Internal": str(spec.internal).lower(),
        "Ingress": str(spec.ingress).lower(),
        "Subnets": ",".join(config.subnet for config in network.ipam or spec.ipam),
        "Labels": labels_text(spec.annotations.labels),
        "CreatedAt": iso_time(network.meta.created_at),
    }


@click.command(
    cls=Command,
    examples=[
        "flota network inspect backend",
        "flota network inspect --format '{{.IPAM.Config}}' backend",
        "flota network inspect --verbose backend | jq '.[0].Services'",
    ],
)
@inspect_format_option
@click.option("-v", "--verbose", is_flag=True, help="Also the services on it, with the addresses of their tasks.")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...", shell_complete=completing.networks)
@talks
async def inspect(session: Session, networks: tuple[str, ...], form: str | None, verbose: bool) -> None:
    """Show networks as JSON in the shape of Docker's API."""
    from flota.gateway.translation import shown as docker_api

    if not verbose:
        await inspect_each(session, networks, lookup.network, docker_api.network, form)
        return
    from flota.v1.control_pb2 import ListServicesRequest, ListTasksRequest
    from flota.v1.task_states import is_wanted

    services = (await session.control.ListServices(ListServicesRequest())).services
    tasks = [task for task in (await session.control.ListTasks(ListTasksRequest())).tasks if is_wanted(task)]

    def shape(network: Network) -> dict[str, Any]:
        return docker_api.network(network) | {"Services": docker_api.network_services(network, services, tasks)}

    await inspect_each(session, networks, lookup.network, shape, form)


@click.command(cls=Command, examples=["flota network rm backend", "flota network rm --force old older"])
@click.option("-f", "--force", is_flag=True, help="They need not be there; and do not ask about the ingress network.")
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...", shell_complete=completing.networks)
@talks
async def rm(session: Session, networks: tuple[str, ...], force: bool) -> None:
    """Remove networks that no service is on.

    Of the ingress network it is asked first: without one no port can be published on every node, until another one is
    made (network create --ingress).
    """
    from flota.v1.control_pb2 import RemoveNetworkRequest

    async def remove(wanted: str) -> None:
        try:
            found = await lookup.network(session, wanted)
        except lookup.Missing:
            if not force:
                raise
            return
        if found.spec.ingress and not confirmed(_INGRESS_GOES.format(name=found.spec.annotations.name), force):
            raise CommandFailed(f"network {found.spec.annotations.name} stays")
        await session.control.RemoveNetwork(RemoveNetworkRequest(network_id=found.id))

    await remove_each(session, networks, remove)
