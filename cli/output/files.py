"""Secrets and configs in tables and for people: the two have nearly the same columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from flota.cli.filters import Filters
from flota.cli.output.human import labels_text, natural, since
from flota.cli.output.pretty import Lines
from flota.cli.output.tables import Column, print_rows
from flota.gateway.translation.words import iso_time
from flota.v1.objects_pb2 import Config, Secret

T = TypeVar("T", Secret, Config)

FILTERS = ("id", "name", "label")
_ID, _NAME, _DRIVER = Column("ID", "ID"), Column("Name", "NAME"), Column("Driver", "DRIVER")
_TIMES = (Column("CreatedAt", "CREATED"), Column("UpdatedAt", "UPDATED"))
SECRET_COLUMNS = (_ID, _NAME, _DRIVER, *_TIMES)
CONFIG_COLUMNS = (_ID, _NAME, *_TIMES)


def print_files(
    columns: tuple[Column, ...], things: Iterable[T], wanted: Filters, form: str | None, quiet: bool
) -> None:
    """Print those that pass the filters, by name. Raises BadFlag for a bad template."""
    shown = [
        thing
        for thing in things
        if wanted.starts("id", thing.id)
        and wanted.starts("name", thing.spec.annotations.name)
        and wanted.labels("label", thing.spec.annotations.labels)
    ]
    shown.sort(key=lambda thing: natural(thing.spec.annotations.name))
    rows = [_row(thing, _DRIVER in columns) for thing in shown]
    labels = [thing.spec.annotations.labels for thing in shown]
    print_rows(columns, rows, form, quiet, {"Labels": "LABELS"}, labels)


def _row(thing: Secret | Config, with_driver: bool) -> dict[str, str]:
    return {
        "ID": thing.id,
        "Name": thing.spec.annotations.name,
        **({"Driver": ""} if with_driver else {}),
        "CreatedAt": since(thing.meta.created_at),
        "UpdatedAt": since(thing.meta.updated_at),
        "Labels": labels_text(thing.spec.annotations.labels),
    }


def pretty_file(thing: Secret | Config) -> str:
    """The lines; a config's data stands at the end, a secret's never leaves the managers."""
    lines = Lines()
    lines.field("ID", thing.id)
    lines.field("Name", thing.spec.annotations.name)
    lines.mapping("Labels", thing.spec.annotations.labels, mark="- ")
    lines.some("Template driver", thing.spec.template_driver)
    lines.field("Created at", iso_time(thing.meta.created_at))
    lines.field("Updated at", iso_time(thing.meta.updated_at))
    if isinstance(thing, Config):
        lines.title("Data")
        lines.text(thing.spec.data.decode(errors="replace"))
    return str(lines)
