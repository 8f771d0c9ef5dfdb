"""From the options of a command to a loaded Compose project."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flota.cli.failures import BadFlag, CommandFailed

if TYPE_CHECKING:
    from flota.stacks.compose.loading import Project, Source
    from flota.stacks.translation.stack import Stack

F = TypeVar("F", bound=Callable[..., Any])

# Looked for in the current folder when no file is named.
_USUAL_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


def file_options(function: F) -> F:
    """-c, --env-file and --profile: what a stack is made from."""
    for option in reversed(
        (
            click.option(
                "-c",
                "--compose-file",
                "files",
                multiple=True,
                metavar="FILE",
                help=f"Compose file; several are merged, - is standard input (default: {_USUAL_FILES[0]} here).",
            ),
            click.option(
                "--env-file", "env_files", multiple=True, metavar="FILE", help="Variables (default: .env beside FILE)."
            ),
            click.option("--profile", "profiles", multiple=True, metavar="NAME", help="Enable services of a profile."),
        )
    ):
        function = option(function)
    return function


def read_sources(files: Sequence[str]) -> tuple[list[str], list[Source]]:
    """The paths of the files, and the files. Raises CommandFailed, BadFlag."""
    from flota.stacks.compose.loading import Source, read_source
    from flota.stacks.errors import ComposeError

    paths = list(files) or _usual()
    if paths.count("-") > 1:
        raise BadFlag("standard input (-) can be read only once")
    try:
        return paths, [Source("-", _standard_input()) if path == "-" else read_source(path) for path in paths]
    except ComposeError as error:
        raise CommandFailed(str(error)) from None


def project_of(
    paths: Sequence[str],
    sources: Sequence[Source],
    env_files: Sequence[str] = (),
    profiles: Sequence[str] = (),
    name: str = "",
    with_variables: bool = True,
) -> Project:
    """Merge files that were read. Raises ComposeError."""
    from flota.stacks.compose.loading import load, project_folder

    return load(
        sources,
        project_folder(paths[0]),
        os.environ,
        name=name,
        profiles=profiles,
        env_files=env_files,
        with_variables=with_variables,
    )


def load_project(
    files: Sequence[str],
    env_files: Sequence[str] = (),
    profiles: Sequence[str] = (),
    name: str = "",
    with_variables: bool = True,
) -> Project:
    """Read and merge the files. Raises CommandFailed that names file, line and key."""
    from flota.stacks.errors import ComposeError

    paths, sources = read_sources(files)
    try:
        return project_of(paths, sources, env_files, profiles, name, with_variables)
    except ComposeError as error:
        raise CommandFailed(str(error)) from None


def load_stack(files: Sequence[str], env_files: Sequence[str], profiles: Sequence[str], name: str | None) -> Stack:
    """The stack that the files describe. Raises CommandFailed."""
    from flota.stacks.errors import BadValue, ComposeError
    from flota.stacks.translation.names import check_stack_name
    from flota.stacks.translation.stack import translate

    try:
        if name is not None:
            check_stack_name(name)
        project = load_project(files, env_files, profiles, name or "")
        own = name or project.name
        if not own:
            raise BadFlag("the stack needs a name: flota stack deploy -c FILE NAME, or name: at the top of the file")
        return translate(project, check_stack_name(own))
    except ComposeError as error:
        raise CommandFailed(str(error)) from None
    except BadValue as error:
        raise BadFlag(error.of("stack name")) from None


def _usual() -> list[str]:
    found = next((name for name in _USUAL_FILES if os.path.isfile(name)), None)
    if found is None:
        raise BadFlag(f"name a Compose file (-c FILE): there is no {_USUAL_FILES[0]} in this folder")
    return [found]


def _standard_input() -> str:
    if sys.stdin.isatty():
        raise BadFlag("standard input is a terminal: name a file, or pipe one in")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise CommandFailed("standard input is not text in UTF-8") from None
