"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from flota.cli.completing import one_of
from flota.cli.failures import BadFlag

F = TypeVar("F", bound=Callable[..., Any])


def format_option(function: F) -> F:
    """--format for lists."""
    return click.option(
        "--format",
        "form",
        metavar="FORMAT",
        help="table, table TEMPLATE, json, yaml, or a Go template such as '{{.Name}}'.",
    )(function)


def data_format_option(function: F) -> F:
    """--format for reports that are no lists: for people, or for programs."""
    return click.option(
        "--format", "form", type=click.Choice(["json", "yaml"]), help="For programs, rather than for people."
    )(function)


def inspect_format_option(function: F) -> F:
    """--format for inspect."""
    return click.option(
        "-f", "--format", "form", metavar="FORMAT", help="json, yaml, or a Go template such as '{{.Spec.Name}}'."
    )(function)


def result_format_option(function: F) -> F:
    """--format for commands that do something and say what came of it."""
    return click.option(
        "--format", "form", metavar="FORMAT", help="What came of it: json, yaml, or a Go template such as '{{.ID}}'."
    )(function)


def pretty_option(function: F) -> F:
    """--pretty for inspect."""
    return click.option("--pretty", is_flag=True, help="For people instead of JSON.")(function)


def filter_option(*keys: str) -> Callable[[F], F]:
    """--filter with the keys it knows."""
    return click.option(
        "-f",
        "--filter",
        "filters",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"Only what matches: {', '.join(keys)}.",
        shell_complete=one_of([f"{key}=" for key in keys]),
    )


def quiet_option(text: str = "Only ids.") -> Callable[[F], F]:
    """-q/--quiet"""
    return click.option("-q", "--quiet", is_flag=True, help=text)


def no_trunc_option(function: F) -> F:
    """--no-trunc"""
    return click.option("--no-trunc", is_flag=True, help="Whole ids, images and messages.")(function)


def no_resolve_option(function: F) -> F:
    """--no-resolve"""
    return click.option("--no-resolve", is_flag=True, help="Ids instead of names.")(function)


def detach_option(function: F) -> F:
    """-d/--detach"""
    return click.option(
        "-d", "--detach/--no-detach", default=False, help="Return at once, do not wait until the tasks run."
    )(function)


def timeout_option(function: F) -> F:
    """--timeout for waits: seconds in which nothing moves; None = wait for ever."""
    return click.option(
        "--timeout",
        "standstill",
        default="10m",
        show_default=True,
        metavar="DURATION",
        callback=_standstill,
        help="Give up when nothing has moved for so long; 0s waits for ever.",
    )(function)


def _standstill(ctx: click.Context, param: click.Parameter, text: str) -> float | None:
    from flota.cli.service.scalars import read_flag
    from flota.stacks.units import NANO, parse_duration

    return (read_flag("timeout", parse_duration, text) / NANO) or None


def refused_option(name: str, why: str, is_flag: bool = False) -> Callable[[F], F]:
    """A flag of Docker's that does nothing here: whoever gives it is told why, rather than that it is unknown."""

    def refuse(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value:
            raise BadFlag(f"{name} is not supported: {why}")

    return click.option(
        name, is_flag=is_flag, expose_value=False, callback=refuse, help=f"Not supported: {why}.", hidden=True
    )


def label_option(function: F) -> F:
    """-l/--label"""
    return click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label.")(function)


def force_option(function: F) -> F:
    """--force for commands that ask before they remove."""
    return click.option("--force", is_flag=True, help="Do not ask.")(function)


def confirmed(warning: str, force: bool) -> bool:
    """Whether a person agrees; without --force they are asked."""
    return force or click.confirm(f"WARNING! {warning}\nAre you sure you want to continue?", err=True)
