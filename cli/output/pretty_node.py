"""A node for people: `node inspect --pretty`."""

from __future__ import annotations

import base64

from flota.cli.output.human import capital
from flota.cli.output.pretty import Lines
from flota.gateway.translation.shown import availability, reachability, role
from flota.gateway.translation.words import iso_time, word
from flota.stacks.units import format_cpus, format_size
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodePressure, NodeState


def pretty_node(node: Node) -> str:
    """The lines."""
    lines, description = Lines(), node.description
    lines.field("ID", node.id)
    lines.some("Name", node.spec.annotations.name)
    lines.mapping("Labels", node.spec.annotations.labels, mark="- ")
    lines.field("Hostname", description.hostname)
    lines.field("Joined at", iso_time(node.meta.created_at))
    lines.title("Status")
    lines.field("State", capital(word(NodeState.Name(node.status.state), "NODE_STATE_")), 1)
    lines.some("Message", node.status.message, 1)
    lines.field("Availability", capital(availability(node.spec.availability)), 1)
    lines.some("Address", node.status.address, 1)
    if node.role != node.spec.desired_role:
        lines.field("Role", f"{role(node.role)}, becoming {role(node.spec.desired_role)}", 1)
    if node.HasField("manager_status"):
        lines.title("Manager Status")
        lines.field("Address", node.manager_status.address, 1)
        lines.field("Raft Status", capital(reachability(node.manager_status.reachability)), 1)
        lines.field("Leader", "Yes" if node.manager_status.leader else "No", 1)
    lines.title("Platform")
    lines.field("Operating System", description.platform.os, 1)
    lines.field("Architecture", description.platform.architecture, 1)
    lines.title("Resources")
    lines.field("CPUs", format_cpus(description.resources.nano_cpus), 1)
    lines.field("Memory", format_size(description.resources.memory_bytes), 1)
    for each in description.resources.generic:
        lines.field(each.kind, each.name or each.count, 1)
    if description.pressures:
        short = [word(NodePressure.Name(one), "NODE_PRESSURE_") for one in description.pressures]
        lines.field("Pressure", f"{', '.join(short)}: it gets no new tasks", 1)
    if node.HasField("usage"):
        usage = node.usage
        lines.title("Usage")
        lines.field("CPU", f"{100 * usage.cpu:.0f} % (load {usage.load:g})", 1)
        free, total = format_size(usage.memory_available), format_size(usage.memory_total)
        lines.field("Memory", f"{free} of {total} available", 1)
        free, total = format_size(usage.disk_available), format_size(usage.disk_total)
        lines.field("Disk", f"{free} of {total} available", 1)
        lines.field("Processes and threads", f"{usage.pids} of {usage.pids_limit}", 1)
        lines.field("Containers", usage.containers, 1)
    lines.field("Engine Version", description.engine.version)
    lines.mapping("Engine Labels", description.engine.labels, mark="- ")
    if description.HasField("tls_info"):
        tls = description.tls_info
        lines.title("TLS Info")
        lines.title("TrustRoot", 1)
        lines.text(tls.trust_root.decode(errors="replace"))
        lines.field("Issuer Subject", base64.b64encode(tls.issuer_subject).decode(), 1)
        lines.field("Issuer Public Key", base64.b64encode(tls.issuer_public_key).decode(), 1)
    return str(lines)
