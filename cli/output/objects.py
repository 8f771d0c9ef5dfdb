"""Prints objects rather than rows: as indented JSON, as JSON on one line, as YAML, or each through a Go template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from flota.cli.failures import BadFlag


def print_objects(objects: Iterable[Any], form: str | None) -> None:
    """Print what `inspect` found, always as a list: Docker's `inspect` and all that is built on it do so.

    Raises BadFlag for a bad template.
    """
    found = list(objects)
    if not form:
        click.echo(json.dumps(found, indent=4, ensure_ascii=False))
    elif form == "json":
        from flota.templates import to_json

        click.echo(to_json(found))
    elif form == "yaml":
        _print_yaml(found)
    else:
        _print_through(form, found)


def print_object(thing: Any, form: str) -> None:
    """Print one object as "json", as "yaml" or through a Go template. Raises BadFlag for a bad template."""
    if form == "json":
        from flota.templates import to_json

        click.echo(to_json(thing))
    elif form == "yaml":
        _print_yaml(thing)
    else:
        _print_through(form, [thing])


def print_data(data: Any, form: str) -> None:
    """Print data that is made for programs, as "json" (indented) or "yaml"."""
    if form == "yaml":
        _print_yaml(data)
    else:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _print_yaml(data: Any) -> None:
    from flota.stacks.compose.writing import any_to_yaml

    click.echo(any_to_yaml(data), nl=False)


def _print_through(form: str, things: Iterable[Any]) -> None:
    from flota.templates import Template, TemplateError

    try:
        template = Template(form)
        for thing in things:
            click.echo(template.render(thing))
    except TemplateError as error:
        raise BadFlag(f"invalid --format {form!r}: {error}") from None
