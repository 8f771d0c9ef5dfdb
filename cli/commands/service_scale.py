"""`flota service scale` and `rollback`, and what an update does after it was accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from flota.cli import completing, lookup
from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.options import detach_option, quiet_option, result_format_option
from flota.cli.session import Session, failure_of, talks

if TYPE_CHECKING:
    from flota.v1.control_pb2 import UpdateServiceRequest, UpdateServiceResponse
    from flota.v1.objects_pb2 import Task


async def tasks_of(session: Session, *service_ids: str) -> list[Task]:
    """The tasks there are before a change: what failed among them is history."""
    from flota.v1.control_pb2 import ListFilters, ListTasksRequest

    request = ListTasksRequest(filters=ListFilters(service_ids=service_ids))
    return list((await session.control.ListTasks(request)).tasks)


class Manner(NamedTuple):
    """How a person wants to follow what comes of a change."""

    detach: bool = False
    quiet: bool = False
    form: str | None = None


async def follow(
    session: Session,
    service_id: str,
    request: UpdateServiceRequest,
    shown: str,
    manner: Manner,
    warnings: Sequence[str] = (),
    rollback_wanted: bool = False,
) -> None:
    """Send an update, print what the person named (or what came of it, through a template), wait."""
    from flota.cli.waiting import wait_for

    history = [] if manner.detach else await tasks_of(session, service_id)
    answer: UpdateServiceResponse = await session.control.UpdateService(request)
    told = [*warnings, *answer.warnings]
    for warning in told:
        click.echo(f"Warning: {warning}", err=True)
    if manner.form:
        from flota.cli.output.objects import print_object

        print_object({"ID": answer.service.id, "Warnings": told}, manner.form)
    else:
        click.echo(shown)
    if not manner.detach:
        quiet = manner.quiet or bool(manner.form)
        await wait_for(session, [answer.service], quiet, history, rollback_wanted=rollback_wanted)


async def go_back(session: Session, service: str, manner: Manner, to: int = 0) -> None:
    """Roll a service back (to the revision `to`, or the one before) and wait."""
    from flota.v1.control_pb2 import UpdateServiceRequest

    found = await lookup.service(session, service)
    if not to and not found.HasField("previous_spec"):
        raise CommandFailed(f"service {service} has no previous spec to go back to: it was never updated")
    request = UpdateServiceRequest(
        service_id=found.id,
        version=found.meta.version,
        spec=found.spec,
        rollback=UpdateServiceRequest.ROLLBACK_PREVIOUS,
        rollback_to=to,
    )
    await follow(session, found.id, request, service, manner, rollback_wanted=True)


@click.command(cls=Command, examples=["flota service rollback web", "flota service rollback --to 3 web"])
@click.option("--to", type=click.IntRange(min=1), metavar="REVISION", help="Which one; `service history` lists them.")
@detach_option
@quiet_option("Do not show progress.")
@result_format_option
@click.argument("service", shell_complete=completing.services)
@talks
async def rollback(session: Session, service: str, to: int | None, detach: bool, quiet: bool, form: str | None) -> None:
    """Go back to the spec that SERVICE had before its last change, or to any that is kept."""
    await go_back(session, service, Manner(detach, quiet, form), to or 0)


@click.command(cls=Command, examples=["flota service scale web=10 worker=4"])
@detach_option
@result_format_option
@click.argument("scales", nargs=-1, required=True, metavar="SERVICE=REPLICAS...", shell_complete=completing.scales)
@talks
async def scale(session: Session, scales: tuple[str, ...], detach: bool, form: str | None) -> None:
    """Set the number of replicas of one or more services. All are checked before any is changed."""
    import grpc

    from flota.cli.service.flags import set_replicas
    from flota.cli.waiting import wait_for
    from flota.v1.control_pb2 import UpdateServiceRequest

    wanted = [_scale(text) for text in scales]
    found = await lookup.services(session, [name for name, _ in wanted])
    for (name, replicas), service in zip(wanted, found, strict=True):
        try:
            set_replicas(service.spec, replicas)
        except BadFlag as error:
            raise CommandFailed(f"{name}: {error}") from None
    history = [] if detach else await tasks_of(session, *(service.id for service in found))
    changed, failed = [], ""
    for (name, replicas), service in zip(wanted, found, strict=True):
        request = UpdateServiceRequest(service_id=service.id, version=service.meta.version, spec=service.spec)
        try:
            answer = await session.control.UpdateService(request)
        except grpc.aio.AioRpcError as error:
            failed = f"{name}: {failure_of(error, session.host)}"
            break
        changed.append(answer.service)
        if form:
            from flota.cli.output.objects import print_object

            print_object({"ID": service.id, "Name": service.spec.annotations.name, "Replicas": replicas}, form)
        else:
            click.echo(f"{name} scaled to {replicas}")
    if not detach:
        await wait_for(session, changed, quiet=bool(form), history=history)
    if failed:
        raise CommandFailed(failed)


def _scale(text: str) -> tuple[str, int]:
    name, equals, count = text.partition("=")
    if not equals or not name or not count.isascii() or not count.isdigit():
        raise BadFlag(f"invalid scale {text!r}: SERVICE=REPLICAS is needed, such as web=3")
    return name, int(count)
