"""`flota node ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import filter_option, format_option, quiet_option
from flota.cli.output.tables import Column, print_rows
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.v1.objects_pb2 import Node

_FILTERS = ("id", "name", "label", "node.label", "membership", "role")
_COLUMNS = (
    Column("ID", "ID"),
    Column("Hostname", "HOSTNAME"),
    Column("Status", "STATUS"),
    Column("Availability", "AVAILABILITY"),
    Column("ManagerStatus", "MANAGER STATUS"),
    Column("EngineVersion", "ENGINE VERSION"),
)
_MORE = {"Self": "", "TLSStatus": "TLS STATUS", "Address": "ADDRESS", "Labels": "LABELS"}


@click.command(
    cls=Command,
    examples=[
        "flota node ls",
        "flota node ls --filter role=manager",
        "flota node ls --format '{{.Hostname}} {{.Status}}'",
    ],
)
@filter_option(*_FILTERS)
@format_option
@quiet_option()
@talks
async def ls(session: Session, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List the nodes of the swarm; * marks the one you talk to."""
    wanted = Filters(filters, _FILTERS)
    wanted.one_of("role", ("worker", "manager"))
    wanted.one_of("membership", ("accepted",))
    import asyncio

    from flota.cli.output.human import natural
    from flota.gateway.translation.shown import role
    from flota.v1.control_pb2 import GetClusterRequest, ListNodesRequest
    from flota.v1.local_pb2 import InfoRequest

    answer, here, there = await asyncio.gather(
        session.control.ListNodes(ListNodesRequest()),
        session.local.Info(InfoRequest()),
        session.control.GetCluster(GetClusterRequest()),
    )
    nodes = [
        node
        for node in answer.nodes
        if wanted.starts("id", node.id)
        and wanted.starts("name", node.description.hostname)
        and wanted.labels("label", node.description.engine.labels)
        and wanted.labels("node.label", node.spec.annotations.labels)
        and wanted.equals("role", role(node.role))
    ]
    nodes.sort(key=lambda node: natural(node.description.hostname))
    rows = [_row(node, here.node_id, there.cluster.root_ca.certificate) for node in nodes]
    if form in (None, "", "table") and not quiet:
        for row in rows:
            row["ID"] = f"{row['ID']} {'*' if row['Self'] else ' '}"
    print_rows(_COLUMNS, rows, form, quiet, _MORE)


def _row(node: Node, own_id: str, root: bytes) -> dict[str, Any]:
    from flota.cli.output.human import capital, labels_text
    from flota.gateway.translation.shown import availability, reachability
    from flota.gateway.translation.words import word
    from flota.v1.types_pb2 import NodeState

    manager, tls = node.manager_status, node.description.tls_info
    standing = "leader" if manager.leader else reachability(manager.reachability)
    trust = "Unknown" if not tls.trust_root else "Ready" if tls.trust_root == root else "Needs Rotation"
    return {
        "ID": node.id,
        "Self": node.id == own_id,
        "Hostname": node.description.hostname,
        "Status": capital(word(NodeState.Name(node.status.state), "NODE_STATE_")),
        "Availability": capital(availability(node.spec.availability)),
        "ManagerStatus": capital(standing) if node.HasField("manager_status") else "",
        "EngineVersion": node.description.engine.version,
        "TLSStatus": trust,
        "Address": node.status.address,
        "Labels": labels_text(node.spec.annotations.labels),
    }
