"""`flota service logs` and `flota task logs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from flota.cli import completing, lookup
from flota.cli.colours import wanted
from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.options import no_resolve_option
from flota.cli.session import Session, talks

F = TypeVar("F", bound=Callable[..., Any])


def _options(function: F) -> F:
    """What `service logs` and `task logs` know."""
    for option in reversed(
        [
            click.option("-f", "--follow", is_flag=True, help="Go on as new lines come."),
            click.option(
                "-n", "--tail", default="all", metavar="LINES", help="So many lines from the end of each task's (all)."
            ),
            click.option("--since", metavar="TIME", help="Since then: 10m, 2026-01-31T13:45:00Z, or Unix seconds."),
            click.option("--until", metavar="TIME", help="Until then."),
            click.option("-t", "--timestamps", is_flag=True, help="When each line was written."),
            click.option("--no-task-ids", is_flag=True, help="Without the tasks' ids."),
            no_resolve_option,
            click.option("--no-trunc", is_flag=True, help="Whole ids."),
            click.option("--raw", is_flag=True, help="Nothing but what the tasks wrote."),
            click.option("--details", is_flag=True, help="Labels and variables that --log-opt names."),
        ]
    ):
        function = option(function)
    return function


@click.command(
    cls=Command,
    examples=[
        "flota service logs web",
        "flota service logs --follow --tail 20 --timestamps web",
        "flota service logs --since 1h --until 10m --raw 3k1q8w2v0c9d",
    ],
)
@_options
@click.argument("service", metavar="SERVICE|TASK", shell_complete=completing.services)
@talks
async def logs(session: Session, /, service: str, **flags: Any) -> None:
    """Show what the tasks of a service, or one task, have written, in the order of time."""
    from flota.v1.objects_pb2 import Task

    found = await lookup.task_or_service(session, service)
    if isinstance(found, Task):
        await _show(session, task_ids=[found.id], largest=found.slot, **flags)
    else:
        await _show(session, service_ids=[found.id], largest=found.spec.replicated.replicas, **flags)


@click.command(
    "logs",
    cls=Command,
    examples=["flota task logs web.1", "flota task logs -f --tail 10 web.1 web.2", "flota task logs 3k1q8w2v0c9d"],
)
@_options
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...", shell_complete=completing.tasks)
@talks
async def task_logs(session: Session, /, tasks: tuple[str, ...], **flags: Any) -> None:
    """Show what tasks have written, in the order of time. A task is named by its id, its name, or SERVICE.SLOT."""
    found = [await lookup.task_in_slot(session, task) for task in tasks]
    await _show(session, task_ids=[task.id for task in found], largest=max(task.slot for task in found), **flags)


async def _show(
    session: Session,
    *,
    follow: bool,
    tail: str,
    since: str | None,
    until: str | None,
    timestamps: bool,
    no_task_ids: bool,
    no_resolve: bool,
    no_trunc: bool,
    raw: bool,
    details: bool,
    largest: int,
    service_ids: Sequence[str] = (),
    task_ids: Sequence[str] = (),
) -> None:
    """`largest`: the largest number of a slot."""
    from flota.cli.logs import Style, Writer, parse_since
    from flota.cli.logs import follow as follow_logs
    from flota.cli.service.scalars import read_flag
    from flota.v1.logs_pb2 import LogOptions, LogSelector

    options = LogOptions(follow=follow)
    if tail != "all":
        if not tail.isascii() or not tail.isdigit() or int(tail) >= 2**63:
            raise BadFlag(f"invalid --tail {tail!r}: a number of lines is needed, or all")
        options.tail = int(tail)
    now = time.time()
    if since is not None:
        options.since.CopyFrom(read_flag("since", lambda text: parse_since(text, now), since))
    if until is not None:
        options.until.CopyFrom(read_flag("until", lambda text: parse_since(text, now), until))
    style = Style(
        timestamps=timestamps,
        no_resolve=no_resolve,
        no_task_ids=no_task_ids,
        no_trunc=no_trunc,
        raw=raw,
        details=details,
        colour=wanted(),
        slot_width=len(str(largest)),
    )
    selector = LogSelector(service_ids=service_ids, task_ids=task_ids)
    await follow_logs(session, selector, options, Writer(session, style))
