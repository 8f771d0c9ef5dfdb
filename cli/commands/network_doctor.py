"""`flota network doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flota.cli.groups import Command
from flota.cli.options import data_format_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.cli.doctor.finding import Finding

# Looks at names that are in flux are taken again.
_TRIES = 3
_PAUSE = 0.5


@click.command(cls=Command, examples=["flota network doctor", "flota lab exec m1 -- flota network doctor"])
@data_format_option
@talks
async def doctor(session: Session, form: str | None) -> None:
    """Look for what is wrong with networks, from every node: run it on a manager.

    Every node looks at every other one: the way there (answers, size of packets, UDP ports that are rejected),
    WireGuard tunnels, whether tasks reach each other over each network, what they are told about names, clocks; also
    addresses that run out. Changes nothing. The exit status is 1 when something does not work.
    """
    from flota.cli.doctor.report import report

    for _ in range(_TRIES):
        found, in_flux = await _findings(session)
        if not in_flux:
            break
        await _pause()
    report(found, form)


async def _pause() -> None:
    import asyncio

    await asyncio.sleep(_PAUSE)


async def _findings(session: Session) -> tuple[list[Finding], bool]:
    """What is found, and whether names were wrong: then they may just have been changing."""
    from flota.cli.doctor import network
    from flota.cli.doctor.finding import ok
    from flota.v1.checks_pb2 import CheckNetworksRequest
    from flota.v1.control_pb2 import ListNetworksRequest, ListNodesRequest, ListTasksRequest
    from flota.v1.network_options import is_encrypted

    reports = [report async for report in session.checks.CheckNetworks(CheckNetworksRequest())]
    nodes = (await session.control.ListNodes(ListNodesRequest())).nodes
    tasks = (await session.control.ListTasks(ListTasksRequest())).tasks
    networks = await session.control.ListNetworks(ListNetworksRequest(with_use=True))
    names = network.Names(
        nodes={node.id: node.description.hostname for node in nodes},
        networks={one.id: one.spec.annotations.name for one in networks.networks},
        addresses={
            node.description.data_path_address or node.status.address: node.description.hostname for node in nodes
        },
    )
    reports.sort(key=lambda report: names.node(report.node_id))
    looked = [report for report in reports if not report.error]
    told_names = list(network.names_right(looked, tasks, names))
    found = [
        *network.unasked(nodes, reports, names),
        *network.ways(looked, names),
        *network.encryption(nodes, any(is_encrypted(one.spec) for one in networks.networks), names),
        *network.tunnels(looked, names),
        *network.paths(looked, names),
        *told_names,
        *network.addresses(networks.use, names),
        *network.clocks(looked, names),
    ]
    if len(nodes) == 1:
        found.insert(0, ok("ways", "this is the only node"))
    return found, any(one.verdict != "ok" for one in told_names)
