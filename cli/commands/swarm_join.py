"""`flota swarm join` and `leave`."""

from __future__ import annotations

import click

from flota.cli.groups import Command
from flota.cli.options import result_format_option
from flota.cli.session import Session, talks
from flota.cli.swarm_options import address_options, checked_address


@click.command(cls=Command, examples=["flota swarm join --token SWMTKN-1-… 192.168.1.10:2377"])
@address_options
@click.option("--token", required=True, metavar="TOKEN", help="A worker's or a manager's; it decides the role.")
@result_format_option
@click.argument("managers", nargs=-1, required=True, metavar="MANAGER...")
@talks
async def join(
    session: Session,
    managers: tuple[str, ...],
    token: str,
    form: str | None,
    availability: str,
    advertise_addr: str | None,
    listen_addr: str | None,
    data_path_addr: str | None,
) -> None:
    """Make this node part of a swarm. MANAGER is the address of one of its managers; more are tried in turn."""
    from flota.gateway.translation.shown import role
    from flota.v1.local_pb2 import JoinRequest
    from flota.v1.types_pb2 import NodeAvailability

    answer = await session.local.Join(
        JoinRequest(
            token=token,
            addresses=[checked_address("MANAGER", manager, add_port=True) for manager in managers],
            advertise_address=checked_address("--advertise-addr", advertise_addr),
            listen_address=checked_address("--listen-addr", listen_addr, add_port=True),
            data_path_address=data_path_addr or "",
            availability=NodeAvailability.Value(f"NODE_AVAILABILITY_{availability.upper()}"),
        )
    )
    if form:
        from flota.cli.output.objects import print_object

        print_object({"NodeID": answer.node_id, "Role": role(answer.role)}, form)
    else:
        click.echo(f"This node joined a swarm as a {role(answer.role)}.")


@click.command(cls=Command, examples=["flota swarm leave", "flota swarm leave --force"])
@click.option("-f", "--force", is_flag=True, help="Also a manager, and also when the rest could not decide any more.")
@talks
async def leave(session: Session, force: bool) -> None:
    """Take this node out of its swarm; what runs on it stops."""
    from flota.v1.local_pb2 import LeaveRequest

    await session.local.Leave(LeaveRequest(force=force))
    click.echo("Node left the swarm.")
