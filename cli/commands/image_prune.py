"""`flota image prune`."""

from __future__ import annotations

import time

import click

from flota.cli.failures import BadFlag
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import confirmed, filter_option, force_option
from flota.cli.session import Session, talks

_FILTERS = ("until", "label")


@click.command(
    cls=Command,
    examples=["flota image prune", "flota image prune --all --force --filter until=168h"],
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also images that have names.")
@filter_option(*_FILTERS)
@force_option
@talks
async def prune(session: Session, everything: bool, filters: tuple[str, ...], force: bool) -> None:
    """Remove images that no task on this node needs; without --all only those that have no name.

    --filter until=168h: only those that came, or were last needed, longer ago.
    """
    from flota.cli.output.human import decimal_size
    from flota.v1.local_pb2 import PruneImagesRequest

    wanted = Filters(filters, _FILTERS)
    request = PruneImagesRequest(all=everything, labels=wanted.label_map("label"))
    for text in wanted.get("until"):
        request.until.FromMilliseconds(int(_moment(text) * 1000))
    what = "all images that no task needs" if everything else "all images without a name that no task needs"
    if not confirmed(f"This will remove {what} on this node.", force):
        return
    answer = await session.agent.PruneImages(request)
    for name in answer.untagged:
        click.echo(f"untagged: {name}")
    for image_id in answer.deleted:
        click.echo(f"deleted: {image_id}")
    click.echo(f"Total reclaimed space: {decimal_size(answer.reclaimed_bytes)}")


def _moment(text: str) -> float:
    """Seconds since 1970 of a time, or of so long ago."""
    from datetime import datetime

    from flota.stacks.errors import BadValue
    from flota.stacks.units import NANO, parse_duration

    try:
        return time.time() - parse_duration(text, days=True) / NANO
    except BadValue:
        pass
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise BadFlag(
            f"invalid --filter {f'until={text}'!r}: a duration such as 24h, or a time such as 2026-01-31T12:00:00Z, "
            "is needed"
        ) from None
