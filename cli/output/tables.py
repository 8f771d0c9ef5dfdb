"""Prints rows: as Docker's tables, through a Go template, as JSON lines, as YAML, or only their ids.

A view knows its columns: (field, header). The widths are those of Go's tabwriter as Docker uses it: at least 10,
three spaces between columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

_MINIMUM = 10
_PADDING = 3


class Column(NamedTuple):
    """One field of a row and what stands above it."""

    field: str
    header: str


def print_rows(
    columns: Sequence[Column],
    rows: Iterable[Mapping[str, Any]],
    form: str | None = None,
    quiet: bool = False,
    more_headers: Mapping[str, str] | None = None,
    labels: Sequence[Mapping[str, str]] | None = None,
    key: str = "ID",
) -> None:
    """Print `rows`: `form` is None or "table" (a table), "json", "yaml", a Go template, or
    "table TEMPLATE".

    `quiet` prints only the field `key`. Fields that only templates use have their headers in `more_headers`; `labels`,
    one mapping per row, are what `.Label "key"` asks. Raises BadFlag for a bad template.
    """
    listed = list(rows)
    if quiet and form is None:
        for row in listed:
            click.echo(row[key])
        return
    if form in (None, "table", ""):
        lines = [[column.header for column in columns]]
        lines += [[_cell(row[column.field]) for column in columns] for row in listed]
        click.echo(align(lines), nl=False)
        return
    _print_formatted(columns, listed, str(form), more_headers or {}, labels or [{} for _ in listed])


def _print_formatted(
    columns: Sequence[Column],
    rows: list[Mapping[str, Any]],
    form: str,
    more_headers: Mapping[str, str],
    labels: Sequence[Mapping[str, str]],
) -> None:
    from flota.cli.failures import BadFlag
    from flota.templates import Row, Template, TemplateError, to_json

    if form == "json":
        for row in rows:
            click.echo(to_json(dict(sorted(row.items()))))
        return
    if form == "yaml":
        from flota.stacks.compose.writing import any_to_yaml

        click.echo(any_to_yaml(rows), nl=False)
        return
    known = {column.field: column.header for column in columns} | dict(more_headers)
    table = form.startswith("table ")
    try:
        template = Template(form.removeprefix("table ").strip() if table else form)
        lines = [
            template.render(Row(row, {"Label": lambda key, own=own: own.get(key, "")}))
            for row, own in zip(rows, labels, strict=True)
        ]
        if table:
            header = template.render(Row(known, {"Label": _label_header}))
            lines.insert(0, header)
    except TemplateError as error:
        raise BadFlag(f"invalid --format {form!r}: {error}") from None
    if table:
        click.echo(align([line.split("\t") for line in lines]), nl=False)
    else:
        for line in lines:
            click.echo(line)


def _label_header(key: str) -> str:
    """The last part of a label's key."""
    return key.rpartition(".")[2].replace("-", " ").replace("_", " ").upper()


def _cell(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells in columns; nothing is padded at a line's end."""
    widths: list[int] = []
    for cells in lines:
        for index, cell in enumerate(cells[:-1]):
            width = max(_MINIMUM, len(cell) + _PADDING)
            if index < len(widths):
                widths[index] = max(widths[index], width)
            else:
                widths.append(width)
    return "".join(
        "".join([*(cell.ljust(widths[index]) for index, cell in enumerate(cells[:-1])), cells[-1]]).rstrip() + "\n"
        for cells in lines
    )
