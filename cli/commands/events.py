"""`flota events`."""

from __future__ import annotations

import time

import click

from flota.cli.groups import Command
from flota.cli.options import filter_option
from flota.cli.session import Session, talks

_KINDS = ("service", "task", "node", "network", "secret", "config", "cluster")
_FILTERS = (
    "type", "event", "service", "task", "node", "network", "secret", "config", "stack", "image", "scope",
    # Docker's words for tasks and nodes.
    "container", "daemon",
)  # fmt: skip


@click.command(
    cls=Command,
    examples=[
        "flota events",
        "flota events --since 1h --until 0s --filter type=task --filter event=failed",
        "flota events --filter stack=shop --format '{{.Time}} {{.Actor.Attributes.name}} {{.Action}}'",
        "flota events --since 10m --format json | jq .Actor.Attributes.error",
    ],
)
@click.option("--since", metavar="TIME", help="Begin with then: 10m, 2026-01-31T13:45:00Z, or seconds since 1970.")
@click.option("--until", metavar="TIME", help="End with then, in the same words; 0s is now.")
@filter_option(*_FILTERS)
@click.option(
    "--format", "form", metavar="FORMAT", help="json, yaml, or a Go template such as '{{.Type}} {{.Action}}'."
)
@talks
async def events(
    session: Session, since: str | None, until: str | None, filters: tuple[str, ...], form: str | None
) -> None:
    """Show what happens in the swarm: services, tasks, nodes, networks, secrets, configs.

    Goes on until Ctrl-C, or until --until. Managers remember the last 10,000 changes of the cluster's state; of the
    time before they were started, the newest 1,000 events.
    """
    from flota.cli.filters import Filters
    from flota.cli.happenings import EventPrinter, follow
    from flota.cli.logs import parse_since
    from flota.cli.service.scalars import read_flag
    from flota.v1.control_pb2 import EventsRequest

    wanted = Filters(filters, _FILTERS)
    wanted.one_of("type", _KINDS)
    printer = EventPrinter(wanted, form)
    now = time.time()
    request = EventsRequest(follow=True)
    left: float | None = None
    if since is not None:
        request.since.CopyFrom(read_flag("since", lambda text: parse_since(text, now), since))
    if until is not None:
        request.until.CopyFrom(read_flag("until", lambda text: parse_since(text, now), until))
        left = request.until.seconds + request.until.nanos / 1e9 - now
        request.follow = left > 0
    await follow(session, request, printer, left if request.follow else None)
