"""`flota service history` and `diff`: the specs that a service had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flota.cli import completing, lookup
from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.options import format_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.stacks.plan import Change
    from flota.v1.objects_pb2 import Service, ServiceRevision

_MOST_KEYS = 3


async def _kept(session: Session, wanted: str) -> tuple[Service, list[ServiceRevision], dict[str, str]]:
    """The service, its revisions, and names of networks by id."""
    from flota.v1.control_pb2 import GetServiceHistoryRequest, ListNetworksRequest

    service = await lookup.service(session, wanted)
    history = (await session.control.GetServiceHistory(GetServiceHistoryRequest(service_id=service.id))).history
    networks = (await session.control.ListNetworks(ListNetworksRequest())).networks
    return service, list(history.revisions), {each.id: each.spec.annotations.name for each in networks}


@click.command(cls=Command, examples=["flota service history web", "flota service history --format json web"])
@format_option
@click.argument("service", shell_complete=completing.services)
@talks
async def history(session: Session, service: str, form: str | None) -> None:
    """List the specs that SERVICE had, newest first. The present one is marked with *."""
    from flota.cli.output.human import since
    from flota.cli.output.tables import Column, print_rows
    from flota.stacks.plan import differences

    found, revisions, networks = await _kept(session, service)
    columns = (
        Column("Revision", "REVISION"),
        Column("Since", "SINCE"),
        Column("Why", "WHY"),
        Column("Image", "IMAGE"),
        Column("Changes", "CHANGES"),
    )
    rows = []
    for before, revision in zip([None, *revisions], revisions, strict=False):
        changes = differences(before.spec, revision.spec, networks) if before is not None else ()
        present = revision.spec_version == found.spec_version
        rows.append(
            {
                "ID": str(revision.number),
                "Revision": f"{revision.number}{' *' if present and form is None else ''}",
                "Since": since(revision.since),
                "Why": revision.why,
                "Image": revision.spec.task.container.image,
                "Changes": _in_short(changes),
            }
        )
    print_rows(columns, rows[::-1], form)


def _in_short(changes: tuple[Change, ...]) -> str:
    keys = [change.key for change in changes]
    more = len(keys) - _MOST_KEYS
    return ", ".join(keys[:_MOST_KEYS]) + (f" and {more} more" if more > 0 else "")


@click.command(cls=Command, examples=["flota service diff web", "flota service diff web 3 5"])
@click.argument("service", shell_complete=completing.services)
@click.argument("old", required=False, metavar="[A]", type=int)
@click.argument("new", required=False, metavar="[B]", type=int)
@talks
async def diff(session: Session, service: str, old: int | None, new: int | None) -> None:
    """What differs between revisions A and B of SERVICE; by default the one before the present one, and that."""
    from flota.stacks.plan import differences

    found, revisions, networks = await _kept(session, service)
    numbers = [revision.number for revision in revisions]
    present = next((each.number for each in revisions if each.spec_version == found.spec_version), numbers[-1])
    if new is None:
        new = present
    if old is None:
        earlier = [number for number in numbers if number < present]
        if not earlier:
            raise CommandFailed(f"service {service} has one revision only: there is nothing to compare it with")
        old = earlier[-1]
    by_number = {revision.number: revision for revision in revisions}
    for number in (old, new):
        if number not in by_number:
            raise BadFlag(f"service {service} has no revision {number}: kept are {numbers[0]} to {numbers[-1]}")
    changes = differences(by_number[old].spec, by_number[new].spec, networks)
    if not changes:
        click.echo(f"revisions {old} and {new} are the same")
    for change in changes:
        click.echo(f"{change.key}: {'(none)' if change.old is None else change.old} → "
                   f"{'(none)' if change.new is None else change.new}")  # fmt: skip
