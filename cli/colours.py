"""Colours are for terminals: off when the output is piped, when NO_COLOR is set (https://no-color.org) or TERM=dumb."""

from __future__ import annotations

import os
import sys

import click


def wanted() -> bool:
    """Whether standard output shall have colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: str, **more: bool) -> str:
    """`text` in a colour, where colours are wanted."""
    return click.style(text, fg=colour, **more) if wanted() else text
