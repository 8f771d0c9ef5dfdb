"""Findings as people, or programs, get them."""

from __future__ import annotations

import click

from flota.cli.doctor.finding import Finding

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "red")}


def report(found: list[Finding], form: str | None) -> None:
    """Print them, as data when `form` says so. Ends the command with status 1 when something does not work."""
    if form is not None:
        from flota.cli.output.objects import print_data

        rows = [
            {"area": each.area, "verdict": each.verdict, "what": each.what, "advice": each.advice} for each in found
        ]
        print_data(rows, form)
    else:
        for line in _lines(found):
            click.echo(line)
    if any(each.verdict == "failure" for each in found):
        raise click.exceptions.Exit(1)


def _lines(found: list[Finding]) -> list[str]:
    from flota.cli.colours import painted

    width = max((len(each.area) for each in found), default=0)
    lines = []
    for each in found:
        sign, colour = _SIGNS[each.verdict]
        lines.append(f"{painted(sign, colour)} {each.area:<{width}}  {each.what}")
        if each.advice:
            lines.append(f"  {'':<{width}}  → {each.advice}")
    counts = [sum(1 for each in found if each.verdict == verdict) for verdict in ("failure", "warning")]
    words = [
        f"{count} {word}{'s' if count != 1 else ''}" for count, word in zip(counts, ("failure", "warning"), strict=True)
    ]
    return [*lines, "", ", ".join(words) if any(counts) else "All is well."]
