"""`flota image prune`."""

from __future__ import annotations

import click

from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import confirmed, filter_option, force_option
from flota.cli.session import Session, talks
from flota.cli.times import moment

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
        request.until.FromMilliseconds(int(moment(text) * 1000))
    what = "all images that no task needs" if everything else "all images without a name that no task needs"
    if not confirmed(f"This will remove {what} on this node.", force):
        return
    answer = await session.agent.PruneImages(request)
    for name in answer.untagged:
        click.echo(f"untagged: {name}")
    for image_id in answer.deleted:
        click.echo(f"deleted: {image_id}")
    click.echo(f"Total reclaimed space: {decimal_size(answer.reclaimed_bytes)}")
