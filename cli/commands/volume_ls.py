"""`flota volume ls` and `inspect`: of all nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flota.cli import completing, volumes
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
_MORE = {"Labels": "LABELS", "Mountpoint": "MOUNTPOINT", "Scope": "SCOPE", "Size": "SIZE", "Links": "LINKS"}


@click.command(
    cls=Command,
    examples=["flota volume ls", "flota volume ls --filter node=w1", "flota volume ls --here --filter dangling=true"],
)
@click.option("--here", is_flag=True, help="Only this node's: sizes and who uses them are known, too.")
@filter_option(*_FILTERS)
@format_option
@quiet_option("Only names.")
@talks
async def ls(session: Session, here: bool, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List the named volumes of all nodes; on a machine that is no manager, of this one."""
    wanted = Filters(filters, _FILTERS)
    wanted.one_of("dangling", ("true", "false"))
    from flota.cli.output.human import natural

    sizes = form is not None and "Size" in form
    here = here or sizes or bool(wanted.get("dangling"))
    found = [
        one
        for one in await (volumes.of_this_node(session, sizes) if here else volumes.of_all_nodes(session))
        if _passes(one, wanted)
    ]
    found.sort(key=lambda one: (natural(one.volume.name), natural(one.node)))
    rows = [_row(one, here, sizes) for one in found]
    if quiet and form is None:
        for name in dict.fromkeys(row["Name"] for row in rows):
            click.echo(name)
        return
    print_rows(_COLUMNS, rows, form, more_headers=_MORE, labels=[one.volume.labels for one in found])


def _passes(one: Placed, wanted: Filters) -> bool:
    names = wanted.get("name")
    return (
        (not names or any(name in one.volume.name for name in names))
        and wanted.labels("label", one.volume.labels)
        and wanted.equals("driver", one.volume.driver)
        and wanted.equals("node", one.node)
        and wanted.equals("dangling", "false" if one.volume.task_ids else "true")
    )


def _row(one: Placed, here: bool, sizes: bool) -> Mapping[str, str]:
    from flota.cli.output.human import decimal_size, labels_text

    volume = one.volume
    return {
        "Driver": volume.driver,
        "Name": volume.name,
        "Node": one.node,
        "Labels": labels_text(volume.labels),
        "Mountpoint": volume.mountpoint if here else "N/A",
        "Scope": "local",
        "Size": decimal_size(volume.size_bytes) if sizes and volume.size_bytes >= 0 else "N/A",
        "Links": str(len(volume.task_ids)) if here else "N/A",
    }


@click.command(cls=Command, examples=["flota volume inspect data", "flota volume inspect --format '{{.Node}}' data"])
@inspect_format_option
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...", shell_complete=completing.volumes)
@talks
async def inspect(session: Session, names: tuple[str, ...], form: str | None) -> None:
    """Show volumes as JSON in the shape of Docker's API: this node's, else that of another node."""
    await inspect_each(session, names, _find, _shape, form)


async def _find(session: Session, name: str) -> Placed:
    for one in [*await volumes.of_this_node(session, sizes=True), *await volumes.of_all_nodes(session)]:
        if one.volume.name == name:
            return one
    raise Missing(f"no such volume: {name}")


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
    if volume.mountpoint:
        shape["UsageData"] = {"Size": volume.size_bytes, "RefCount": len(volume.task_ids)}
        shape["Tasks"] = list(volume.task_ids)
    return shape
