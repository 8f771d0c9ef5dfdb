"""`flota service restart`, `stop`, `start`: the same service, its tasks anew or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from flota.cli import completing, lookup
from flota.cli.failures import CommandFailed
from flota.cli.groups import Command
from flota.cli.options import detach_option, quiet_option, timeout_option
from flota.cli.service.following import Manner, change_each
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.v1.specs_pb2 import ServiceSpec


async def _change_each(
    session: Session, names: tuple[str, ...], apply: Callable[[ServiceSpec], bool], manner: Manner
) -> None:
    found = await lookup.every(session, lookup.service, names)
    services = list(zip(found, names, strict=True))
    await change_each(session, services, manner, lambda service: apply(service.spec))


_services = click.argument(
    "services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=completing.services
)


@click.command(cls=Command, examples=["flota service restart web", "flota service restart --detach web worker"])
@detach_option
@timeout_option
@quiet_option("Do not show progress.")
@_services
@talks
async def restart(
    session: Session, services: tuple[str, ...], detach: bool, standstill: float | None, quiet: bool
) -> None:
    """Replace all tasks of services by new ones, the way their update configuration says."""

    def apply(spec: ServiceSpec) -> bool:
        if spec.stopped:
            raise CommandFailed(f"service {spec.annotations.name} is stopped: flota service start begins its tasks")
        spec.task.force_update += 1
        return True

    await _change_each(session, services, apply, Manner(detach, quiet, standstill=standstill))


@click.command(cls=Command, examples=["flota service stop web"])
@detach_option
@timeout_option
@quiet_option("Do not show progress.")
@_services
@talks
async def stop(
    session: Session, services: tuple[str, ...], detach: bool, standstill: float | None, quiet: bool
) -> None:
    """Stop all tasks of services. Nothing else changes: `start` brings them back as they are now."""

    def apply(spec: ServiceSpec) -> bool:
        was, spec.stopped = spec.stopped, True
        return not was

    await _change_each(session, services, apply, Manner(detach, quiet, standstill=standstill))


@click.command(cls=Command, examples=["flota service start web"])
@detach_option
@timeout_option
@quiet_option("Do not show progress.")
@_services
@talks
async def start(
    session: Session, services: tuple[str, ...], detach: bool, standstill: float | None, quiet: bool
) -> None:
    """Run the tasks of stopped services again."""

    def apply(spec: ServiceSpec) -> bool:
        was, spec.stopped = spec.stopped, False
        return was

    await _change_each(session, services, apply, Manner(detach, quiet, standstill=standstill))
