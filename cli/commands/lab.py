"""`flota lab …`: passed on as it is to `python -m flota.node.lab`, which this room may not import."""

from __future__ import annotations

import os
import sys

import click


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> None:
    """A whole swarm on this machine, to try things out."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", "flota.node.lab", *arguments])
