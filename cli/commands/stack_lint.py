"""`flota stack lint`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.options import data_format_option
from flota.cli.stack.project import file_options, project_of, read_sources

if TYPE_CHECKING:
    from flota.stacks.compose.loading import Source
    from flota.stacks.lint import Finding

FOUND = 1


@click.command(
    cls=Command,
    examples=[
        "flota stack lint -c compose.yml",
        "flota stack lint --ignore moving-image -c compose.yml -c production.yml",
    ],
)
@file_options
@click.option("--ignore", "ignored", multiple=True, metavar="RULE", help="Leave out what a rule finds.")
@data_format_option
def lint(
    files: tuple[str, ...],
    env_files: tuple[str, ...],
    profiles: tuple[str, ...],
    ignored: tuple[str, ...],
    form: str | None,
) -> None:
    """Look for mistakes in Compose files: also such as can be deployed. The exit status is 1 when there are any."""
    from flota.stacks.lint import RULES

    known = (*RULES, "decimal-mode", "ignored", "error")
    for rule in ignored:
        if rule not in known:
            raise BadFlag(f"invalid --ignore {rule!r}: the rules are {', '.join(sorted(known))}")
    paths, sources = read_sources(files)
    found = [each for each in _found(paths, sources, env_files, profiles) if each.rule not in ignored]
    if form is not None:
        from flota.cli.output.objects import print_data

        print_data([vars(each) for each in found], form)
    else:
        for each in found:
            click.echo(str(each))
    if found:
        raise click.exceptions.Exit(FOUND)


def _found(
    paths: list[str], sources: list[Source], env_files: tuple[str, ...], profiles: tuple[str, ...]
) -> list[Finding]:
    """Every mistake in the structure of the files; when there is none, the first one beyond it, or what rules find."""
    from flota.stacks.compose.loading import project_folder, read_filled, with_env_files
    from flota.stacks.compose.validation import problems
    from flota.stacks.errors import ComposeError
    from flota.stacks.lint import Finding, look
    from flota.stacks.translation.stack import translate

    errors, documents = [], []
    try:
        environment = with_env_files(os.environ, project_folder(paths[0]), env_files)
    except ComposeError as error:
        raise CommandFailed(str(error)) from None
    for source in sources:
        try:
            document, _ = read_filled(source, environment)
        except ComposeError as error:
            errors.append(error)
            continue
        documents.append(document)
        errors += problems(document)
    if not errors:
        try:
            project = project_of(paths, sources, env_files, profiles)
            stack = translate(project, project.name or "stack")
        except ComposeError as error:
            errors.append(error)
    if errors:
        return sorted(Finding(each.file, each.line, each.key, "error", each.message) for each in errors)
    notes = [Finding(paths[0], 0, "", "ignored", text) for text in stack.warnings]
    return [*notes, *look(project, documents)]
