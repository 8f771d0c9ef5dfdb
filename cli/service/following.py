"""What happens after a service was asked to change: one line for what was accepted, then the wait for it.

Shared by the commands that change services; what each asks for is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from flota.cli.failures import CommandFailed
from flota.cli.session import Session, failure_of

if TYPE_CHECKING:
    from flota.v1.control_pb2 import UpdateServiceRequest
    from flota.v1.objects_pb2 import Service, Task


class Manner(NamedTuple):
    """How a person wants to follow what comes of a change."""

    detach: bool = False
    quiet: bool = False
    form: str | None = None
    # The wait ends when nothing has moved for so many seconds; None = never.
    standstill: float | None = None

    def tell(self, service: Service, shown: str, warnings: Sequence[str] = ()) -> None:
        """Print what the person named, or what came of it through a template; warnings besides."""
        for warning in warnings:
            click.echo(f"Warning: {warning}", err=True)
        if self.form:
            from flota.cli.output.objects import print_object

            spec = service.spec
            told = {
                "ID": service.id,
                "Name": spec.annotations.name,
                "Replicas": spec.replicated.replicas or spec.replicated_job.total_completions,
                "Warnings": [*warnings],
            }
            print_object(told, self.form)
        else:
            click.echo(shown)

    async def wait(
        self,
        session: Session,
        services: Sequence[Service],
        history: Sequence[Task] = (),
        rollback_wanted: bool = False,
    ) -> None:
        """Wait until services are stable, unless detached. `history`: tasks of before. Raises NotConverged."""
        from flota.cli.waiting import wait_for

        if not self.detach:
            quiet = self.quiet or bool(self.form)
            await wait_for(
                session, services, quiet, history, rollback_wanted=rollback_wanted, standstill=self.standstill
            )

    async def history(self, session: Session, *service_ids: str) -> list[Task]:
        """The tasks there are before a change: what failed among them is no news. Empty when nobody waits."""
        from flota.v1.control_pb2 import ListFilters, ListTasksRequest

        if self.detach:
            return []
        request = ListTasksRequest(filters=ListFilters(service_ids=service_ids))
        return list((await session.control.ListTasks(request)).tasks)


async def change(
    session: Session,
    request: UpdateServiceRequest,
    shown: str,
    manner: Manner,
    warnings: Sequence[str] = (),
    rollback_wanted: bool = False,
) -> None:
    """Send an update of one service, tell what came of it, wait."""
    history = await manner.history(session, request.service_id)
    answer = await session.control.UpdateService(request)
    manner.tell(answer.service, shown, [*warnings, *answer.warnings])
    await manner.wait(session, [answer.service], history, rollback_wanted)


async def change_each(
    session: Session, services: Sequence[tuple[Service, str]], manner: Manner, apply: Callable[[Service], bool]
) -> None:
    """Change services one after the other, each with the line that tells of it, then wait for all.

    `apply` changes a service's spec and says whether there was anything to do. Raises CommandFailed for the first that
    is refused, when the others have been waited for.
    """
    import grpc

    from flota.v1.control_pb2 import UpdateServiceRequest

    history = await manner.history(session, *(service.id for service, _ in services))
    changed, failed = [], ""
    for service, shown in services:
        if apply(service):
            request = UpdateServiceRequest(service_id=service.id, version=service.meta.version, spec=service.spec)
            try:
                answer = await session.control.UpdateService(request)
            except grpc.aio.AioRpcError as error:
                failed = f"{service.spec.annotations.name}: {failure_of(error, session.host)}"
                break
            changed.append(answer.service)
        manner.tell(service, shown)
    await manner.wait(session, changed, history)
    if failed:
        raise CommandFailed(failed)
