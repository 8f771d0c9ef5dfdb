"""`flota doctor`."""

from __future__ import annotations

import datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flota.cli.groups import Command
from flota.cli.options import data_format_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.cli.doctor.finding import Finding


@click.command(
    cls=Command, examples=["flota doctor", "flota doctor --format json | jq '.[] | select(.verdict != \"ok\")'"]
)
@data_format_option
@talks
async def doctor(session: Session, form: str | None) -> None:
    """Look for what is wrong with this machine and its node, and say what to do about it.

    Programs, kernel, control groups, disk, memory, clock, ports; then, with a daemon: the node, its certificate, the
    managers it must reach, and on a manager the swarm's nodes and their clocks. Changes nothing. The exit status is 1
    when something does not work.
    """
    from flota.cli.doctor.report import report

    report(await _findings(session), form)


async def _findings(session: Session) -> list[Finding]:
    import asyncio

    import grpc

    from flota.cli.doctor import machine, swarm
    from flota.cli.doctor.finding import failure
    from flota.cli.session import failure_of
    from flota.v1.local_pb2 import InfoRequest, InfoResponse
    from flota.v1.types_pb2 import NodeRole

    here = machine.Machine()
    own: list[Finding] = []
    try:
        info = await session.local.Info(InfoRequest())
    except grpc.aio.AioRpcError as error:
        own.append(failure("daemon", str(failure_of(error, session.host)), "flota daemon, or systemctl start flota"))
        return [*await asyncio.to_thread(machine.checks, here), *own]
    here.state = Path(info.state_directory or here.state)
    here.in_swarm = info.state not in (InfoResponse.STATE_INACTIVE, InfoResponse.STATE_ERROR)
    own += swarm.node(info, version_of("flota"))
    if here.in_swarm:
        own += swarm.certificate(here.state / "identity", datetime.datetime.now(datetime.UTC))
        own += await swarm.managers_reached(peer.address for peer in info.managers)
    if info.state == InfoResponse.STATE_ACTIVE and info.role == NodeRole.NODE_ROLE_MANAGER:
        try:
            own += await swarm.cluster(session)
        except grpc.aio.AioRpcError as error:
            own.append(failure("swarm", str(failure_of(error, session.host)), "are most managers up?"))
    return [*await asyncio.to_thread(machine.checks, here), *own]
