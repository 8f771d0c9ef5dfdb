"""`flota swarm join-token`: what joiners need."""

from __future__ import annotations

import click

from flota.cli.failures import CommandFailed
from flota.cli.groups import Command
from flota.cli.options import quiet_option, result_format_option
from flota.cli.session import Session, talks
from flota.cli.updates import with_newest


@click.command(
    "join-token",
    cls=Command,
    examples=[
        "flota swarm join-token worker",
        "flota swarm join-token --rotate manager",
        "flota swarm join-token --quiet worker",
    ],
)
@click.option("--rotate", is_flag=True, help="Make a new token; the old one is refused from then on.")
@quiet_option("Only the token.")
@result_format_option
@click.argument("role", type=click.Choice(["worker", "manager"]))
@talks
async def join_token(session: Session, role: str, rotate: bool, quiet: bool, form: str | None) -> None:
    """Show the command with which nodes join as workers or managers."""
    from flota.v1.control_pb2 import GetClusterRequest, GetJoinTokensRequest, UpdateClusterRequest

    async def once() -> None:
        cluster = (await session.control.GetCluster(GetClusterRequest())).cluster
        await session.control.UpdateCluster(
            UpdateClusterRequest(
                version=cluster.meta.version,
                rotate_worker_token=role == "worker",
                rotate_manager_token=role == "manager",
            )
        )

    if rotate:
        await with_newest(once)
    answer = await session.control.GetJoinTokens(GetJoinTokensRequest())
    token = answer.tokens.worker if role == "worker" else answer.tokens.manager
    if form:
        from flota.cli.output.objects import print_object

        print_object({"Role": role, "Token": token, "Addresses": list(answer.addresses)}, form)
        return
    if quiet:
        click.echo(token)
        return
    if rotate:
        click.echo(f"Successfully rotated {role} join token.\n")
    if not answer.addresses:
        raise CommandFailed("no manager of this swarm has told where it can be reached")
    click.echo(
        f"To add a {role} to this swarm, run the following command:\n\n"
        f"    flota swarm join --token {token} {answer.addresses[0]}\n"
    )
