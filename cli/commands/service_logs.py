"""`flota service logs`."""

from __future__ import annotations

import time

import click

from flota.cli import completing, lookup
from flota.cli.colours import wanted
from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.options import no_resolve_option
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=[
        "flota service logs web",
        "flota service logs --follow --tail 20 --timestamps web",
        "flota service logs --since 10m --raw 3k1q8w2v0c9d",
    ],
)
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines come.")
@click.option("-n", "--tail", default="all", metavar="LINES", help="So many lines from the end of each task's (all).")
@click.option("--since", metavar="TIME", help="Since then: 10m, 2026-01-31T13:45:00Z, or seconds since 1970.")
@click.option("-t", "--timestamps", is_flag=True, help="When each line was written.")
@click.option("--no-task-ids", is_flag=True, help="Without the tasks' ids.")
@no_resolve_option
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--raw", is_flag=True, help="Nothing but what the tasks wrote.")
@click.option("--details", is_flag=True, help="Labels and variables that --log-opt labels=… and env=… name.")
@click.argument("service", metavar="SERVICE|TASK", shell_complete=completing.services)
@talks
async def logs(
    session: Session,
    service: str,
    follow: bool,
    tail: str,
    since: str | None,
    timestamps: bool,
    no_task_ids: bool,
    no_resolve: bool,
    no_trunc: bool,
    raw: bool,
    details: bool,
) -> None:
    """Show what the tasks of a service, or one task, have written."""
    from flota.cli.logs import Style, Writer, parse_since
    from flota.cli.logs import follow as follow_logs
    from flota.cli.service.scalars import read_flag
    from flota.v1.logs_pb2 import LogOptions, LogSelector
    from flota.v1.objects_pb2 import Task

    options = LogOptions(follow=follow)
    if tail != "all":
        if not tail.isascii() or not tail.isdigit() or int(tail) >= 2**63:
            raise BadFlag(f"invalid --tail {tail!r}: a number of lines is needed, or all")
        options.tail = int(tail)
    if since is not None:
        options.since.CopyFrom(read_flag("since", lambda text: parse_since(text, time.time()), since))
    found = await lookup.task_or_service(session, service)
    if isinstance(found, Task):
        selector, largest = LogSelector(task_ids=[found.id]), found.slot
    else:
        selector, largest = LogSelector(service_ids=[found.id]), found.spec.replicated.replicas
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
    await follow_logs(session, selector, options, Writer(session, style))
