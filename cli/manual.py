"""Manual pages, one per command, made from the commands themselves: `make man`, or `python -m flota.cli.manual FOLDER`.

What a page says is what --help says, so neither can say what the other does not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from flota.cli.groups import Command
from flota.cli.main import root

EXIT_STATUSES = (
    ("0", "It worked."),
    ("1", "It did not; standard error says why. Also: stack lint found something, doctor found a failure."),
    ("2", "stack diff, stack deploy --plan and stack rollback --plan: there are changes."),
    ("125", "The command line is wrong: an unknown command, flag or value. Nothing was done."),
    ("130", "Interrupted with Ctrl-C."),
    ("*", "exec: that of the command that was run (126: it cannot be run, 127: it is not there)."),
)
ENVIRONMENT = (
    ("FLOTA_HOST", "The daemon's socket (unix:///run/flota/flota.sock)."),
    ("FLOTA_DEBUG", "Print a traceback with every failure."),
    ("FLOTA_COMPLETION_SECONDS", "How long completion of names may ask the daemon (1)."),
    ("NO_COLOR", "No colours, whatever the output is."),
)


def write_all(directory: Path) -> list[Path]:
    """Write a page for each command to DIRECTORY/man1; gives their paths."""
    folder = directory / "man1"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for context, command, below in walk(click.Context(root, info_name="flota"), root):
        path = folder / f"{name_of(context)}.1"
        path.write_text(page(context, command, below))
        written.append(path)
    return written


def walk(context: click.Context, command: click.Command) -> Iterator[tuple[click.Context, click.Command, list[str]]]:
    """Every command with its context and the names of its own commands."""
    names = command.list_commands(context) if isinstance(command, click.Group) else []
    yield context, command, names
    for name in names:
        assert isinstance(command, click.Group)
        try:
            child = command.get_command(context, name)
        except ModuleNotFoundError:
            continue  # A command whose package this installation does not have.
        if child is not None and not child.hidden:
            yield from walk(click.Context(child, info_name=name, parent=context), child)


def name_of(context: click.Context) -> str:
    """flota-service-create"""
    return context.command_path.replace(" ", "-")


def page(context: click.Context, command: click.Command, below: list[str]) -> str:
    """The page of one command, in man(7)'s macros."""
    name = name_of(context)
    first, _, rest = (command.help or "").partition("\n\n")
    lines = [
        f'.TH "{name.upper()}" "1" "" "flota {version("flota")}" "flota"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(first).rstrip('.')}",
        ".SH SYNOPSIS",
        ".nf",
        _text(" ".join([context.command_path, *command.collect_usage_pieces(context)])),
        ".fi",
        ".SH DESCRIPTION",
        _text(first),
        *(line for part in rest.split("\n\n") if part.strip() for line in (".PP", _text(part))),
    ]
    options = [record for each in command.get_params(context) if (record := each.get_help_record(context)) is not None]
    if options:
        lines += [".SH OPTIONS", *_listed(options)]
    if below:
        rows = [
            (one, each.get_short_help_str(200))
            for one in below
            if isinstance(command, click.Group) and (each := _child(command, context, one)) is not None
        ]
        lines += [".SH COMMANDS", *_listed(rows)]
    if isinstance(command, Command) and command.examples:
        lines += [".SH EXAMPLES", ".nf", *(_text(line, keep=True) for line in command.examples), ".fi"]
    lines += [".SH EXIT STATUS", *_listed(EXIT_STATUSES), ".SH ENVIRONMENT", *_listed(ENVIRONMENT)]
    others = [f"{name}-{one}" for one in below] + ([name_of(context.parent)] if context.parent is not None else [])
    if others:
        lines += [".SH SEE ALSO", ", ".join(f"\\fB{_text(one)}\\fR(1)" for one in sorted(others))]
    return "\n".join(lines) + "\n"


def _child(group: click.Group, context: click.Context, name: str) -> click.Command | None:
    try:
        return group.get_command(context, name)
    except ModuleNotFoundError:
        return None


def _listed(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, text in rows:
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(text) or "\\&")


def _text(text: str, keep: bool = False) -> str:
    """Text that troff prints as it is; white space is folded unless `keep`."""
    text = text if keep else " ".join(text.split())
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    pages = write_all(Path(sys.argv[1] if len(sys.argv) > 1 else "build/man"))
    print(f"{len(pages)} pages in {pages[0].parent}")
