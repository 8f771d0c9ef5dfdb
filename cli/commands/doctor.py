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

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "red")}


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
    found = await _findings(session)
    if form is not None:
        from flota.cli.output.objects import print_data

        rows = [
            {"area": each.area, "verdict": each.verdict, "what": each.what, "advice": each.advice} for each in found
        ]
        print_data(rows, form)
    else:
        for line in _lines(found):
            click.echo(line)
    if any(each.verdict == "failure" for each in found):
        raise click.exceptions.Exit(1)


def _lines(found: list[Finding]) -> list[str]:
    from flota.cli.colours import painted

    width = max(len(each.area) for each in found)
    lines = []
    for each in found:
        sign, colour = _SIGNS[each.verdict]
        lines.append(f"{painted(sign, colour)} {each.area:<{width}}  {each.what}")
        if each.advice:
            lines.append(f"  {'':<{width}}  → {each.advice}")
    counts = [sum(1 for each in found if each.verdict == verdict) for verdict in ("failure", "warning")]
    words = [
        f"{count} {word}{'s' if count != 1 else ''}" for count, word in zip(counts, ("failure", "warning"), strict=True)
    ]
    return [*lines, "", ", ".join(words) if any(counts) else "All is well."]


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
