"""`flota service explain`: why each task is where it is, or why it is nowhere."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=[
        "flota service explain web",
        "flota service explain --history web",
        "flota service explain --nodes web",
    ],
)
@click.option("--history", is_flag=True, help="Also tasks that have ended or are to go.")
@click.option("--nodes", is_flag=True, help="Also what each node says to one more task.")
@click.argument("service", shell_complete=completing.services)
@talks
async def explain(session: Session, service: str, history: bool, nodes: bool) -> None:
    """Why each task of SERVICE is where it is, or why it waits: node by node, filter by filter."""
    from flota.cli import lookup
    from flota.cli.output.explanation import explanation
    from flota.cli.output.tasks import hostnames
    from flota.v1.control_pb2 import ExplainServiceRequest, ListNodesRequest

    found = await lookup.service(session, service)
    answer = await session.control.ExplainService(ExplainServiceRequest(service_id=found.id))
    names = hostnames((await session.control.ListNodes(ListNodesRequest())).nodes)
    click.echo(explanation(answer, names, history, nodes), nl=False)
