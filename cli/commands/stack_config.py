"""`flota stack config`."""

from __future__ import annotations

import click

from flota.cli.failures import CommandFailed
from flota.cli.groups import Command
from flota.cli.stack.project import file_options, load_project


@click.command(
    cls=Command,
    examples=[
        "flota stack config -c compose.yml -c production.yml",
        "flota stack config --skip-interpolation -c compose.yml",
    ],
)
@file_options
@click.option("--skip-interpolation", is_flag=True, help="Leave variables as they are written.")
def config(
    files: tuple[str, ...], env_files: tuple[str, ...], profiles: tuple[str, ...], skip_interpolation: bool
) -> None:
    """Print what the Compose files come to: merged, checked, with variables filled in and short forms written out."""
    from flota.stacks.compose.writing import to_yaml
    from flota.stacks.errors import ComposeError
    from flota.stacks.translation.stack import translate

    project = load_project(files, env_files, profiles, with_variables=not skip_interpolation)
    warnings = project.warnings
    if not skip_interpolation:
        # What could not be deployed is not printed as if it could.
        try:
            warnings = translate(project, project.name or "stack").warnings
        except ComposeError as error:
            raise CommandFailed(str(error)) from None
    click.echo(to_yaml(project.tree, escape=not skip_interpolation), nl=False)
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)
