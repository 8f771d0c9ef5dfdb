"""`flota stack deploy`."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.options import detach_option, timeout_option
from flota.cli.session import Session, talks
from flota.cli.stack.project import file_options, load_stack


@click.command(
    cls=Command,
    examples=[
        "flota stack deploy -c compose.yml shop",
        "flota stack deploy -c compose.yml -c production.yml --prune --with-registry-auth shop",
        "generate | flota stack deploy -c - shop",
        "flota stack deploy -c compose.yml --plan shop",
    ],
)
@file_options
@click.option("--prune", is_flag=True, help="Remove what the stack has and the files no longer name.")
@click.option(
    "--resolve-image",
    type=click.Choice(["always", "changed", "never"]),
    default="always",
    show_default=True,
    help="Whether an image that was pinned to a digest stays so (changed, never) while the file names the same one.",
)
@click.option("--plan", is_flag=True, help="Show what would be done, and do nothing; exit status 2 if it is anything.")
@click.option("--format", "form", type=click.Choice(["json", "yaml"]), help="With --plan, for programs.")
@click.option("--with-registry-auth", is_flag=True, help="Send your registry credentials to the workers.")
@detach_option
@timeout_option
@click.option("-q", "--quiet", is_flag=True, help="Do not show progress.")
@click.argument("name", required=False, metavar="[STACK]", shell_complete=completing.stacks)
@talks
async def deploy(
    session: Session,
    files: tuple[str, ...],
    env_files: tuple[str, ...],
    profiles: tuple[str, ...],
    name: str | None,
    prune: bool,
    resolve_image: str,
    plan: bool,
    form: str | None,
    with_registry_auth: bool,
    detach: bool,
    standstill: float | None,
    quiet: bool,
) -> None:
    """Deploy a stack from Compose files, or bring it up to date with them.

    STACK may be left out when a file has name: at its top.
    """
    from flota.cli.stack.deploying import Deployment

    stack = load_stack(files, env_files, profiles, name)
    for warning in stack.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if plan:
        from flota.cli.stack.planning import show_plan

        await show_plan(session, stack, prune, resolve_image, form)
        return
    if form is not None:
        raise BadFlag("--format goes with --plan")
    deployment = Deployment(
        session,
        stack,
        with_registry_auth=with_registry_auth,
        resolve_image=resolve_image,
        detach=detach,
        standstill=standstill,
        quiet=quiet,
        source=", ".join(files),
    )
    await deployment.run(prune)
