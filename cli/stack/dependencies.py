"""Waits until the services that another one depends on have started, are healthy, or have done their work."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from flota.cli.convergence import Goal
from flota.cli.waiting import Display, LiveDisplay, PlainDisplay, Waiter
from flota.v1.types_pb2 import Dependency

if TYPE_CHECKING:
    from flota.cli.session import Session

_GOALS = {
    Dependency.CONDITION_STARTED: (Goal.STARTED, "has started"),
    Dependency.CONDITION_HEALTHY: (Goal.HEALTHY, "is healthy"),
    Dependency.CONDITION_COMPLETED: (Goal.COMPLETED, "is complete"),
}


async def wait_until(
    session: Session, waiting: str, wanted: Mapping[str, Dependency], quiet: bool, standstill: float | None = None
) -> None:
    """Return when all of `wanted` (by the services' ids) are as far as they must be. Raises NotConverged."""
    from flota.v1.control_pb2 import GetServiceRequest

    services = [
        (await session.control.GetService(GetServiceRequest(service_id=service_id))).service for service_id in wanted
    ]
    conditions = ", ".join(f"{each.service} {_GOALS[each.condition][1]}" for each in wanted.values())
    if not quiet:
        click.echo(f"Waiting until {conditions}, for {waiting}")
    goals = {service_id: _GOALS[each.condition][0] for service_id, each in wanted.items()}
    display = Display() if quiet else LiveDisplay(True) if sys.stdout.isatty() else PlainDisplay(True)
    await Waiter(session, services, display, goals=goals, standstill=standstill).run()
