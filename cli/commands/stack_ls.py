"""`flota stack ls` and `flota stack services`."""

from __future__ import annotations

from collections import Counter

import click

from flota.cli import completing
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import filter_option, format_option, no_trunc_option, quiet_option
from flota.cli.session import Session, talks

_FILTERS = ("id", "label", "mode", "name")
_MODES = ("replicated", "global", "replicated-job", "global-job")


@click.command(cls=Command, examples=["flota stack ls", "flota stack ls --format '{{.Name}}: {{.Services}}'"])
@format_option
@talks
async def ls(session: Session, form: str | None) -> None:
    """List the stacks that have services."""
    from flota.cli.output.human import natural
    from flota.cli.output.tables import Column, print_rows
    from flota.cli.stack.inventory import of_stack
    from flota.stacks.translation.names import NAMESPACE
    from flota.v1.control_pb2 import ListServicesRequest

    answer = await session.control.ListServices(ListServicesRequest(filters=of_stack("")))
    counts = Counter(service.spec.annotations.labels[NAMESPACE] for service in answer.services)
    rows = [{"Name": name, "Services": str(counts[name])} for name in sorted(counts, key=natural)]
    print_rows((Column("Name", "NAME"), Column("Services", "SERVICES")), rows, form)


@click.command(
    cls=Command,
    examples=[
        "flota stack services shop",
        "flota stack services --filter name=shop_web --format '{{.Replicas}}' shop",
    ],
)
@filter_option(*_FILTERS)
@format_option
@no_trunc_option
@quiet_option()
@click.argument("name", metavar="STACK", shell_complete=completing.stacks)
@talks
async def services(
    session: Session, name: str, filters: tuple[str, ...], form: str | None, no_trunc: bool, quiet: bool
) -> None:
    """List the services of STACK, and how many of their tasks run."""
    wanted = Filters(filters, _FILTERS)
    wanted.one_of("mode", _MODES)
    from flota.cli.output.services import mode_words, print_services
    from flota.cli.stack.inventory import services_of
    from flota.v1.control_pb2 import ListServiceStatusesRequest

    found = [
        service
        for service in await services_of(session, name)
        if wanted.starts("id", service.id)
        and wanted.starts("name", service.spec.annotations.name)
        and wanted.labels("label", service.spec.annotations.labels)
        and wanted.equals("mode", mode_words(service).replace(" ", "-"))
    ]
    if not found:
        click.echo(f"Nothing found in stack: {name}", err=True)
        return
    request = ListServiceStatusesRequest(service_ids=[service.id for service in found])
    statuses = (await session.control.ListServiceStatuses(request)).statuses
    print_services(found, {status.service_id: status for status in statuses}, form, quiet, no_trunc)
