"""`flota service scale` and `rollback`."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.options import detach_option, quiet_option, result_format_option, timeout_option
from flota.cli.service.following import Manner, change, change_each
from flota.cli.session import Session, talks


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
    await change(session, request, service, manner, rollback_wanted=True)


@click.command(cls=Command, examples=["flota service rollback web", "flota service rollback --to 3 web"])
@click.option("--to", type=click.IntRange(min=1), metavar="REVISION", help="Which one; `service history` lists them.")
@detach_option
@timeout_option
@quiet_option("Do not show progress.")
@result_format_option
@click.argument("service", shell_complete=completing.services)
@talks
async def rollback(
    session: Session,
    service: str,
    to: int | None,
    detach: bool,
    standstill: float | None,
    quiet: bool,
    form: str | None,
) -> None:
    """Go back to the spec that SERVICE had before its last change, or to any that is kept."""
    await go_back(session, service, Manner(detach, quiet, form, standstill), to or 0)


@click.command(cls=Command, examples=["flota service scale web=10 worker=4", "flota service scale --timeout 2m web=10"])
@detach_option
@timeout_option
@result_format_option
@click.argument("scales", nargs=-1, required=True, metavar="SERVICE=REPLICAS...", shell_complete=completing.scales)
@talks
async def scale(
    session: Session, scales: tuple[str, ...], detach: bool, standstill: float | None, form: str | None
) -> None:
    """Set the number of replicas of one or more services. All are checked before any is changed."""
    from flota.cli.service.flags import set_replicas

    wanted = [_scale(text) for text in scales]
    found = await lookup.every(session, lookup.service, [name for name, _ in wanted])
    services = []
    for (name, replicas), service in zip(wanted, found, strict=True):
        try:
            set_replicas(service.spec, replicas)
        except BadFlag as error:
            raise CommandFailed(f"{name}: {error}") from None
        services.append((service, f"{name} scaled to {replicas}"))
    manner = Manner(detach, form=form, standstill=standstill)
    await change_each(session, services, manner, lambda service: True)


def _scale(text: str) -> tuple[str, int]:
    name, equals, count = text.partition("=")
    if not equals or not name or not count.isascii() or not count.isdigit():
        raise BadFlag(f"invalid scale {text!r}: SERVICE=REPLICAS is needed, such as web=3")
    return name, int(count)
