"""`flota stack history` and `flota stack rollback`: what was deployed, and back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flota.cli import completing
from flota.cli.failures import CommandFailed
from flota.cli.groups import Command
from flota.cli.options import detach_option, format_option, no_trunc_option, quiet_option, timeout_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.cli.stack.history import Kept
    from flota.stacks.translation.stack import Stack

_LONGEST = 60


@click.command(
    cls=Command,
    examples=[
        "flota stack history shop",
        "flota stack history --format '{{.Revision}} {{.Source}}: {{.Changes}}' shop",
        "flota stack history --no-trunc --format json shop",
    ],
)
@format_option
@no_trunc_option
@quiet_option("Only the numbers of the revisions.")
@click.argument("name", metavar="STACK", shell_complete=completing.stacks)
@talks
async def history(session: Session, name: str, form: str | None, no_trunc: bool, quiet: bool) -> None:
    """List the revisions of STACK, the newest first.

    Every deploy that changed something is one; the newest 10 are kept.
    """
    from flota.cli.output.tables import Column, print_rows
    from flota.cli.stack.history import revisions_of
    from flota.cli.stack.inventory import inventory

    there = await inventory(session, name)
    revisions = revisions_of(there)
    if not revisions:
        raise CommandFailed(
            f"stack {name} has no history: it was not deployed with this version of flota"
            if there
            else f"nothing found in stack: {name}"
        )
    columns = (
        Column("Revision", "REVISION"),
        Column("DeployedAt", "DEPLOYED"),
        Column("By", "BY"),
        Column("Source", "SOURCE"),
        Column("Changes", "CHANGES"),
        Column("Outcome", "OUTCOME"),
    )
    rows = [_row(kept, no_trunc) for kept in revisions]
    print_rows(columns, rows, form, quiet, {"Services": "SERVICES"}, key="Revision")


def _row(kept: Kept, no_trunc: bool) -> dict[str, Any]:
    from flota.cli.output.human import since

    revision = kept.revision

    def short(text: str) -> str:
        return text if no_trunc or len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

    return {
        "Revision": str(revision.revision),
        "DeployedAt": since(revision.deployed_at),
        "By": revision.deployed_by,
        "Source": short(revision.source),
        "Changes": revision.summary,
        "Outcome": short(kept.outcome),
        "Services": str(len(revision.services)),
    }


@click.command(
    cls=Command,
    examples=[
        "flota stack rollback shop",
        "flota stack rollback --to 3 --plan shop",
        "flota stack rollback --to 3 shop",
    ],
)
@click.option("--to", type=click.IntRange(min=1), metavar="REVISION", help="That revision (default: the one before).")
@click.option("--plan", is_flag=True, help="Show what would be done, and do nothing; exit status 2 if it is anything.")
@click.option("--format", "form", type=click.Choice(["json", "yaml"]), help="With --plan, for programs.")
@click.option("--with-registry-auth", is_flag=True, help="Send your registry credentials to the workers.")
@detach_option
@timeout_option
@click.option("-q", "--quiet", is_flag=True, help="Do not show progress.")
@click.argument("name", metavar="STACK", shell_complete=completing.stacks)
@talks
async def rollback(
    session: Session,
    name: str,
    to: int | None,
    plan: bool,
    form: str | None,
    with_registry_auth: bool,
    detach: bool,
    standstill: float | None,
    quiet: bool,
) -> None:
    """Bring STACK back to a revision of its history.

    Services, their secrets and their configs are what they were then; services that came later are removed. It is a
    new revision of its own, so it can be rolled back, too. Volumes and what is in them stay as they are.
    """
    from flota.cli.failures import BadFlag
    from flota.cli.stack.deploying import Deployment
    from flota.cli.stack.history import find, revisions_of
    from flota.cli.stack.inventory import inventory

    there = await inventory(session, name)
    revisions = revisions_of(there)
    if not revisions:
        raise CommandFailed(f"stack {name} has no history (flota stack history {name})")
    if to is None and len(revisions) < 2:
        raise CommandFailed(f"stack {name} has no revision before {revisions[0].revision.revision}")
    chosen = revisions[1] if to is None else find(revisions, name, to)
    stack = _stack_of(chosen, set(there.secrets), set(there.configs))
    if plan:
        from flota.cli.stack.planning import show_plan

        await show_plan(session, stack, True, "always", form, objects=False)
        return
    if form is not None:
        raise BadFlag("--format goes with --plan")
    deployment = Deployment(
        session,
        stack,
        with_registry_auth=with_registry_auth,
        detach=detach,
        standstill=standstill,
        quiet=quiet,
        source=f"rollback to {chosen.revision.revision}",
    )
    await deployment.run(prune=True, prune_objects=False)


def _stack_of(kept: Kept, secrets: set[str], configs: set[str]) -> Stack:
    """What a revision was, as a stack to deploy. Raises CommandFailed when what it needs has been removed."""
    from flota.stacks.records import referenced
    from flota.stacks.translation.stack import Stack

    revision = kept.revision
    needed = referenced([revision])
    stack = Stack(revision.stack, services=list(revision.services), networks=list(revision.networks))
    for kind, names, known in (("secret", needed[0], secrets), ("config", needed[1], configs)):
        for name in sorted(names - known):
            # Not of this stack: an external one, or one that somebody removed.
            stack.external.append((kind, name))
    return stack
