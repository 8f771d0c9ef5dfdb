"""`flota network doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flota.cli.groups import Command
from flota.cli.options import data_format_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.cli.doctor.finding import Finding

_VXLAN_PORT = 4789
# Looks at names that are in flux are taken again.
_TRIES = 3
_PAUSE = 0.5
_MOST_NAMES = 20


@click.command(cls=Command, examples=["flota network doctor", "flota lab exec m1 -- flota network doctor"])
@data_format_option
@talks
async def doctor(session: Session, form: str | None) -> None:
    """Look for what is wrong with networks, from this node: run it on a manager, as root.

    The way to every other node (answers, size of packets, UDP ports that are rejected), WireGuard tunnels, what tasks
    here are told about names, addresses that run out, clocks. Changes nothing. The exit status is 1 when something does
    not work.
    """
    from flota.cli.doctor.report import report

    report(await _findings(session), form)


async def _findings(session: Session) -> list[Finding]:
    import asyncio

    from flota.cli.doctor import network, swarm
    from flota.cli.doctor.finding import Finding, ok
    from flota.v1.control_pb2 import ListNetworksRequest, ListNodesRequest, ListTasksRequest
    from flota.v1.local_pb2 import InfoRequest
    from flota.v1.objects_pb2 import Node
    from flota.v1.types_pb2 import TaskState

    info = await session.local.Info(InfoRequest())
    nodes = (await session.control.ListNodes(ListNodesRequest())).nodes
    tasks = (await session.control.ListTasks(ListTasksRequest())).tasks
    networks = await session.control.ListNetworks(ListNetworksRequest(with_use=True))
    run_directory = Path(session.host.removeprefix("unix://")).parent
    own_id = info.node_id
    hostnames = {node.id: node.description.hostname for node in nodes}

    found: list[Finding] = []
    wanted: list[Node] = []
    for each in network.others(nodes, own_id):
        if isinstance(each, Node):
            wanted.append(each)
        else:
            found.append(each)
    looked = await asyncio.gather(*(network.checked(network.look, node, (_VXLAN_PORT,)) for node in wanted))
    found += network.ways(one for one in looked if isinstance(one, network.Way))
    found += [one for one in looked if isinstance(one, Finding)]
    if not nodes[1:]:
        found.append(ok("ways", "this is the only node"))

    by_address = {node.description.data_path_address or node.status.address: hostnames[node.id] for node in nodes}
    found += network.tunnels(await asyncio.to_thread(network.read_tunnels, run_directory), by_address, network.now())

    seen: set[str] = set()
    for task in tasks:
        runs = task.status.state == TaskState.TASK_STATE_RUNNING and task.networks
        if task.node_id == own_id and runs and task.service_id not in seen and len(seen) < _MOST_NAMES:
            seen.add(task.service_id)
            for _ in range(_TRIES):
                answer = await asyncio.to_thread(network.ask, run_directory, task)
                result = network.names_right(task, answer, network.expected(tasks, task))
                if result.verdict == "ok":
                    break
                await asyncio.sleep(_PAUSE)
                tasks = (await session.control.ListTasks(ListTasksRequest())).tasks
            found.append(result)
    titles = {one.id: one.spec.annotations.name for one in networks.networks}
    found += network.addresses(networks.use, titles)
    found += swarm.clocks(tasks, hostnames)
    return found
