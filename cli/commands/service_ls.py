"""`flota service ls`."""

from __future__ import annotations

import click

from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import filter_option, format_option, no_trunc_option, quiet_option
from flota.cli.session import Session, talks

_FILTERS = ("id", "label", "mode", "name")
_MODES = ("replicated", "global", "replicated-job", "global-job")


@click.command(
    cls=Command,
    examples=[
        "flota service ls",
        "flota service ls --filter mode=global --filter label=tier=web",
        "flota service ls --format '{{.Name}}: {{.Replicas}}'",
    ],
)
@filter_option(*_FILTERS)
@format_option
@no_trunc_option
@quiet_option()
@talks
async def ls(session: Session, filters: tuple[str, ...], form: str | None, no_trunc: bool, quiet: bool) -> None:
    """List services, and how many of their tasks run."""
    wanted = Filters(filters, _FILTERS)
    wanted.one_of("mode", _MODES)
    import asyncio

    from flota.cli.output.services import mode_words, print_services
    from flota.v1.control_pb2 import ListServicesRequest, ListServiceStatusesRequest

    listed, counted = await asyncio.gather(
        session.control.ListServices(ListServicesRequest()),
        session.control.ListServiceStatuses(ListServiceStatusesRequest()),
    )
    services = [
        service
        for service in listed.services
        if wanted.starts("id", service.id)
        and wanted.starts("name", service.spec.annotations.name)
        and wanted.labels("label", service.spec.annotations.labels)
        and wanted.equals("mode", mode_words(service).replace(" ", "-"))
    ]
    statuses = {status.service_id: status for status in counted.statuses}
    print_services(services, statuses, form, quiet, no_trunc)
