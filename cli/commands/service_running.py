"""`flota service restart`, `stop`, `start`: the same service, its tasks anew or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from flota.cli import completing, lookup
from flota.cli.failures import CommandFailed
from flota.cli.groups import Command
from flota.cli.options import detach_option, quiet_option
from flota.cli.session import Session, failure_of, talks

if TYPE_CHECKING:
    from flota.v1.specs_pb2 import ServiceSpec


async def _change_each(
    session: Session, names: tuple[str, ...], apply: Callable[[ServiceSpec], bool], detach: bool, quiet: bool
) -> None:
    """Change services one after the other, then wait for all. `apply` says whether there was anything to do."""
    import grpc

    from flota.cli.commands.service_scale import tasks_of
    from flota.cli.waiting import wait_for
    from flota.v1.control_pb2 import UpdateServiceRequest

    found = await lookup.services(session, names)
    history = [] if detach else await tasks_of(session, *(service.id for service in found))
    changed, failed = [], ""
    for name, service in zip(names, found, strict=True):
        if not apply(service.spec):
            click.echo(name)
            continue
        request = UpdateServiceRequest(service_id=service.id, version=service.meta.version, spec=service.spec)
        try:
            answer = await session.control.UpdateService(request)
        except grpc.aio.AioRpcError as error:
            failed = f"{name}: {failure_of(error, session.host)}"
            break
        changed.append(answer.service)
        click.echo(name)
    if not detach:
        await wait_for(session, changed, quiet=quiet, history=history)
    if failed:
        raise CommandFailed(failed)


_services = click.argument(
    "services", nargs=-1, required=True, metavar="SERVICE...", shell_complete=completing.services
)


@click.command(cls=Command, examples=["flota service restart web", "flota service restart --detach web worker"])
@detach_option
@quiet_option("Do not show progress.")
@_services
@talks
async def restart(session: Session, services: tuple[str, ...], detach: bool, quiet: bool) -> None:
    """Replace all tasks of services by new ones, the way their update configuration says."""

    def apply(spec: ServiceSpec) -> bool:
        if spec.stopped:
            raise CommandFailed(f"service {spec.annotations.name} is stopped: flota service start begins its tasks")
        spec.task.force_update += 1
        return True

    await _change_each(session, services, apply, detach, quiet)


@click.command(cls=Command, examples=["flota service stop web"])
@detach_option
@quiet_option("Do not show progress.")
@_services
@talks
async def stop(session: Session, services: tuple[str, ...], detach: bool, quiet: bool) -> None:
    """Stop all tasks of services. Nothing else changes: `start` brings them back as they are now."""

    def apply(spec: ServiceSpec) -> bool:
        was, spec.stopped = spec.stopped, True
        return not was

    await _change_each(session, services, apply, detach, quiet)


@click.command(cls=Command, examples=["flota service start web"])
@detach_option
@quiet_option("Do not show progress.")
@_services
@talks
async def start(session: Session, services: tuple[str, ...], detach: bool, quiet: bool) -> None:
    """Run the tasks of stopped services again."""

    def apply(spec: ServiceSpec) -> bool:
        was, spec.stopped = spec.stopped, False
        return was

    await _change_each(session, services, apply, detach, quiet)
