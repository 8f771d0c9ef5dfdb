"""`flota node update`, `promote` and `demote`: other specs for nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from flota.cli import completing, lookup
from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.session import Session, talks
from flota.cli.several import for_each
from flota.cli.updates import with_newest

if TYPE_CHECKING:
    from flota.v1.specs_pb2 import NodeSpec


async def change(session: Session, wanted: str, apply: Callable[[NodeSpec], None]) -> bool:
    """Give a node another spec; False when `apply` changed nothing."""
    from flota.v1.control_pb2 import UpdateNodeRequest
    from flota.v1.specs_pb2 import NodeSpec

    async def once() -> bool:
        found = await lookup.node(session, wanted)
        before = NodeSpec.FromString(found.spec.SerializeToString())
        apply(found.spec)
        if found.spec == before:
            return False
        request = UpdateNodeRequest(node_id=found.id, version=found.meta.version, spec=found.spec)
        await session.control.UpdateNode(request)
        return True

    return await with_newest(once)


@click.command(
    cls=Command,
    examples=[
        "flota node update --availability drain w1",
        "flota node update --availability drain --wait --wait-timeout 5m w1",
        "flota node update --label-add disk=ssd --label-rm old w1",
        "flota node update --role manager w1",
    ],
)
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]), help="What it does with tasks.")
@click.option("--role", type=click.Choice(["worker", "manager"]), help="What it shall be.")
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add a label, or change it.")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Take a label out.")
@click.option("--wait", is_flag=True, help="With --availability drain: until no task runs there any more.")
@click.option("--wait-timeout", metavar="DURATION", help="The longest to wait (for ever).")
@click.argument("node", shell_complete=completing.nodes)
@talks
async def update(
    session: Session,
    node: str,
    wait: bool,
    wait_timeout: str | None,
    availability: str | None,
    role: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
) -> None:
    """Change NODE: whether it takes tasks, its role, its labels.

    A drain moves services with update order start-first before it stops them; others stop first.
    """
    from flota.cli.service.scalars import read_flag
    from flota.cli.service.values import key_value
    from flota.stacks.units import parse_duration
    from flota.v1.types_pb2 import NodeAvailability, NodeRole

    if availability is None and role is None and not label_add and not label_rm:
        raise BadFlag("nothing to change: give --availability, --role, --label-add or --label-rm")
    if (wait or wait_timeout) and availability != "drain":
        raise BadFlag("--wait goes with --availability drain only")
    limit = None if wait_timeout is None else read_flag("wait-timeout", parse_duration, wait_timeout) / 1e9
    added = [read_flag("label-add", key_value, text) for text in label_add]

    def apply(spec: NodeSpec) -> None:
        if availability is not None:
            spec.availability = NodeAvailability.Value(f"NODE_AVAILABILITY_{availability.upper()}")
        if role is not None:
            spec.desired_role = NodeRole.Value(f"NODE_ROLE_{role.upper()}")
        for key in label_rm:
            if key not in spec.annotations.labels:
                raise CommandFailed(f"node {node} has no label {key!r}")
            del spec.annotations.labels[key]
        for key, value in added:
            spec.annotations.labels[key] = value

    await change(session, node, apply)
    click.echo(node)
    if wait or limit is not None:
        from flota.cli.draining import wait_until_empty

        await wait_until_empty(session, await lookup.node(session, node), limit)


@click.command(cls=Command, examples=["flota node promote w1 w2"])
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=completing.nodes)
@talks
async def promote(session: Session, nodes: tuple[str, ...]) -> None:
    """Make nodes managers."""
    from flota.v1.types_pb2 import NodeRole

    def apply(spec: NodeSpec) -> None:
        spec.desired_role = NodeRole.NODE_ROLE_MANAGER

    async def one(node: str) -> str:
        if await change(session, node, apply):
            return f"Node {node} promoted to a manager in the swarm."
        return f"Node {node} is already a manager."

    await for_each(session, nodes, one)


@click.command(cls=Command, examples=["flota node demote m2 m3"])
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=completing.nodes)
@talks
async def demote(session: Session, nodes: tuple[str, ...]) -> None:
    """Make nodes workers."""
    from flota.v1.types_pb2 import NodeRole

    def apply(spec: NodeSpec) -> None:
        spec.desired_role = NodeRole.NODE_ROLE_WORKER

    async def one(node: str) -> str:
        if await change(session, node, apply):
            return f"Manager {node} demoted in the swarm."
        return f"Node {node} is already a worker."

    await for_each(session, nodes, one)
