"""`flota volume ls` and `inspect`: of all nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flota.cli import completing, lookup, volumes
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.inspection import inspect_each
from flota.cli.lookup import Missing
from flota.cli.options import filter_option, format_option, inspect_format_option, quiet_option
from flota.cli.output.tables import Column, print_rows
from flota.cli.session import Session, talks
from flota.cli.volumes import Placed

_FILTERS = ("name", "label", "driver", "node", "dangling")
_COLUMNS = (Column("Driver", "DRIVER"), Column("Name", "VOLUME NAME"), Column("Node", "NODE"))
# What only a volume's node knows, beside its size.
_ASKED = ("Mountpoint", "Links")
_MORE = {"Labels": "LABELS", "Mountpoint": "MOUNTPOINT", "Scope": "SCOPE", "Size": "SIZE", "Links": "LINKS"}


@click.command(
    cls=Command,
    examples=[
        "flota volume ls",
        "flota volume ls --filter node=w1",
        "flota volume ls --filter dangling=true",
        "flota volume ls --format 'table {{.Name}}\\t{{.Node}}\\t{{.Size}}\\t{{.Links}}'",
    ],
)
@click.option("--here", is_flag=True, help="Only this node's, with or without managers.")
@filter_option(*_FILTERS)
@format_option
@quiet_option("Only names.")
@talks
async def ls(session: Session, here: bool, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List the named volumes of all nodes; on a machine that is no manager, of this one.

    Their nodes are asked when it takes that: for --filter dangling, and for sizes, links and mountpoints in --format.
    Of a node that does not answer these are N/A, and no volume passes the filter.
    """
    wanted = Filters(filters, _FILTERS)
    wanted.one_of("dangling", ("true", "false"))
    from flota.cli.output.human import natural

    sizes = form is not None and "Size" in form
    ask = sizes or bool(wanted.get("dangling")) or (form is not None and any(word in form for word in _ASKED))
    if here:
        there = await volumes.of_this_node(session, sizes)
    else:
        there = [one for one in await volumes.of_all_nodes(session) if _may_pass(one, wanted)]
        there = await volumes.asked_of(session, there, sizes) if ask else there
    found = [one for one in there if _may_pass(one, wanted) and _passes(one, wanted)]
    found.sort(key=lambda one: (natural(one.volume.name), natural(one.node)))
    rows = [_row(one) for one in found]
    if quiet and form is None:
        for name in dict.fromkeys(row["Name"] for row in rows):
            click.echo(name)
        return
    print_rows(_COLUMNS, rows, form, more_headers=_MORE, labels=[one.volume.labels for one in found])


def _may_pass(one: Placed, wanted: Filters) -> bool:
    """By what every manager knows of it."""
    names = wanted.get("name")
    return (
        (not names or any(name in one.volume.name for name in names))
        and wanted.labels("label", one.volume.labels)
        and wanted.equals("driver", one.volume.driver)
        and wanted.equals("node", one.node)
    )


def _passes(one: Placed, wanted: Filters) -> bool:
    """By what its node has said."""
    return wanted.equals("dangling", ("false" if one.volume.task_ids else "true") if one.asked else "unknown")


def _row(one: Placed) -> Mapping[str, str]:
    from flota.cli.output.human import decimal_size, labels_text

    volume = one.volume
    return {
        "Driver": volume.driver,
        "Name": volume.name,
        "Node": one.node,
        "Labels": labels_text(volume.labels),
        "Mountpoint": volume.mountpoint if one.asked else "N/A",
        "Scope": "local",
        "Size": decimal_size(volume.size_bytes) if one.asked and volume.size_bytes >= 0 else "N/A",
        "Links": str(len(volume.task_ids)) if one.asked else "N/A",
    }


@click.command(
    cls=Command,
    examples=[
        "flota volume inspect data",
        "flota volume inspect --node w1 data",
        "flota volume inspect --format '{{.Node}}' data",
    ],
)
@volumes.node_option
@inspect_format_option
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...", shell_complete=completing.volumes)
@talks
async def inspect(session: Session, names: tuple[str, ...], form: str | None, node: str) -> None:
    """Show volumes as JSON in the shape of Docker's API: this node's, else that of another node."""
    node_id = (await lookup.node(session, node)).id if node else ""

    async def find(session: Session, name: str) -> Placed:
        return await _find(session, name, node_id)

    await inspect_each(session, names, find, _shape, form)


async def _find(session: Session, name: str, node_id: str) -> Placed:
    """The one of that node; if it is empty this node's, else the first of all nodes."""
    if not node_id:
        for one in await volumes.of_this_node(session, True, name):
            return one
    reported = [one for one in await volumes.of_all_nodes(session) if one.volume.name == name]
    for one in reported:
        if not node_id or one.node_id == node_id:
            for answered in await volumes.asked_of(session, [one], True, name):
                return answered
    where = ", ".join(one.node for one in reported)
    raise Missing(f"no such volume: {name}" + (f" (it is on {where})" if where else ""))


def _shape(one: Placed) -> dict[str, Any]:
    """GET /volumes/{name}"""
    from flota.gateway.translation.words import iso_time

    volume = one.volume
    shape: dict[str, Any] = {
        "Name": volume.name,
        "Driver": volume.driver,
        "Mountpoint": volume.mountpoint,
        "CreatedAt": iso_time(volume.created_at),
        "Labels": dict(volume.labels),
        "Options": dict(volume.options),
        "Scope": "local",
        "Node": one.node,
    }
    if one.asked:
        shape["UsageData"] = {"Size": volume.size_bytes, "RefCount": len(volume.task_ids)}
        shape["Tasks"] = list(volume.task_ids)
    return shape
