"""`flota info` and `flota version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

import click

from flota.cli.failures import CommandFailed
from flota.cli.groups import Command
from flota.cli.options import inspect_format_option
from flota.cli.session import Session, failure_of, talks

if TYPE_CHECKING:
    from flota.v1.local_pb2 import InfoResponse


def _client() -> dict[str, str]:
    return {
        "Version": version_of("flota"),
        "PythonVersion": platform.python_version(),
        "Os": platform.system().lower(),
        "Arch": _architecture(platform.machine()),
    }


def _architecture(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


@click.command(cls=Command, examples=["flota version", "flota version --format '{{.Server.Version}}'"])
@inspect_format_option
@talks
async def version(session: Session, form: str | None) -> None:
    """Show the versions of this command and of the daemon."""
    import grpc

    from flota.v1.local_pb2 import InfoRequest

    server: dict[str, str] | None = None
    failure: CommandFailed | None = None
    try:
        info = await session.local.Info(InfoRequest())
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error, session.host)
    else:
        server = {
            "Version": info.version,
            "Runtime": " ".join(filter(None, (info.runtime, info.runtime_version))),
            "Os": info.description.platform.os,
            "Arch": info.description.platform.architecture,
        }
    if form:
        from flota.cli.output.objects import print_object

        print_object({"Client": _client(), "Server": server}, form)
    else:
        from flota.cli.output.pretty import Lines

        lines = Lines()
        for title, part in (("Client", _client()), ("Server", server)):
            if part is not None:
                lines.title(title)
                lines.field("Version", part["Version"], 1)
                lines.some("Python version", part.get("PythonVersion"), 1)
                lines.some("Runtime", part.get("Runtime"), 1)
                lines.some("OS/Arch", "/".join(filter(None, (part["Os"], part["Arch"]))), 1)
        click.echo(str(lines), nl=False)
    if failure is not None:
        raise failure


@click.command(cls=Command, examples=["flota info", "flota info --format '{{.Swarm.LocalNodeState}}'"])
@inspect_format_option
@talks
async def info(session: Session, form: str | None) -> None:
    """Show this node, its place in the swarm, and the swarm."""
    import grpc

    from flota.v1.local_pb2 import InfoRequest, InfoResponse
    from flota.v1.types_pb2 import NodeRole

    answer = await session.local.Info(InfoRequest())
    shape = _node_shape(answer)
    failure: CommandFailed | None = None
    if answer.state == InfoResponse.STATE_ACTIVE and answer.role == NodeRole.NODE_ROLE_MANAGER:
        try:
            shape["Swarm"] |= await _cluster_shape(session)
        except grpc.aio.AioRpcError as error:
            # A manager without a leader still knows what it is itself.
            failure = failure_of(error, session.host)
            shape["Swarm"]["Error"] = shape["Swarm"]["Error"] or str(failure)
    if form:
        from flota.cli.output.objects import print_object

        print_object(shape, form)
    else:
        click.echo(_lines(shape), nl=False)
    if failure is not None:
        raise failure


def _node_shape(answer: InfoResponse) -> dict[str, Any]:
    """The part of Docker's GET /info that flota has."""
    from flota.gateway.translation.words import word
    from flota.v1.local_pb2 import InfoResponse
    from flota.v1.types_pb2 import NodeRole

    description = answer.description
    return {
        "ID": answer.node_id,
        "Name": description.hostname,
        "ServerVersion": answer.version,
        "Containers": answer.containers_running,
        "ContainersRunning": answer.containers_running,
        "Images": answer.images,
        "DefaultRuntime": answer.runtime,
        "RuntimeVersion": answer.runtime_version,
        "OSType": description.platform.os,
        "Architecture": description.platform.architecture,
        "NCPU": _whole(description.resources.nano_cpus / 1e9),
        "MemTotal": description.resources.memory_bytes,
        "Labels": [f"{key}={value}" for key, value in sorted(description.engine.labels.items())],
        "RootDir": answer.state_directory,
        "MetricsAddrs": list(answer.metrics_addresses),
        "Swarm": {
            "LocalNodeState": word(InfoResponse.State.Name(answer.state), "STATE_"),
            "NodeID": answer.node_id,
            "NodeAddr": answer.node_address,
            "ControlAvailable": answer.state == InfoResponse.STATE_ACTIVE and answer.role == NodeRole.NODE_ROLE_MANAGER,
            "Error": answer.error,
            "RemoteManagers": [{"NodeID": each.node_id, "Addr": each.address} for each in answer.managers],
        },
    }


def _whole(number: float) -> float:
    """2 rather than 2.0."""
    return int(number) if number.is_integer() else number


async def _cluster_shape(session: Session) -> dict[str, Any]:
    import asyncio

    from flota.gateway.translation import shown as docker_api
    from flota.v1.control_pb2 import GetClusterRequest, ListNodesRequest
    from flota.v1.types_pb2 import NodeRole

    cluster, nodes = await asyncio.gather(
        session.control.GetCluster(GetClusterRequest()), session.control.ListNodes(ListNodesRequest())
    )
    managers = sum(1 for node in nodes.nodes if node.role == NodeRole.NODE_ROLE_MANAGER)
    return {"Nodes": len(nodes.nodes), "Managers": managers, "Cluster": docker_api.cluster(cluster.cluster)}


def _lines(shape: dict[str, Any]) -> str:
    from flota.cli.output.pretty import Lines
    from flota.stacks.units import format_size

    lines, swarm = Lines(width=0), shape["Swarm"]
    lines.title("Client")
    lines.field("Version", _client()["Version"], 1)
    lines.title("Server")
    lines.field("Containers", shape["ContainersRunning"], 1)
    lines.field("Images", shape["Images"], 1)
    lines.field("Server Version", shape["ServerVersion"], 1)
    lines.some("Runtime", f"{shape['DefaultRuntime']} {shape['RuntimeVersion']}".strip(), 1)
    lines.field("Swarm", swarm["LocalNodeState"], 1)
    _swarm_lines(lines, swarm)
    lines.some("OSType", shape["OSType"], 1)
    lines.some("Architecture", shape["Architecture"], 1)
    lines.some("CPUs", f"{shape['NCPU']:g}" if shape["NCPU"] else "", 1)
    lines.some("Total Memory", format_size(shape["MemTotal"]) if shape["MemTotal"] else "", 1)
    lines.some("Name", shape["Name"], 1)
    lines.listed("Labels", shape["Labels"], 1)
    lines.some("Root Dir", shape["RootDir"], 1)
    lines.listed("Metrics", shape["MetricsAddrs"], 1)
    return str(lines)


def _swarm_lines(lines: Any, swarm: dict[str, Any]) -> None:
    from flota.stacks.units import format_duration

    lines.some("Error", swarm["Error"], 2)
    if swarm["LocalNodeState"] in ("inactive", "locked"):
        return
    lines.some("NodeID", swarm["NodeID"], 2)
    lines.field("Is Manager", str(swarm["ControlAvailable"]).lower(), 2)
    cluster = swarm.get("Cluster")
    if cluster:
        spec = cluster["Spec"]
        lines.field("ClusterID", cluster["ID"], 2)
        lines.field("Managers", swarm["Managers"], 2)
        lines.field("Nodes", swarm["Nodes"], 2)
        lines.field("Default Address Pool", " ".join(cluster["DefaultAddrPool"]), 2)
        lines.field("SubnetSize", cluster["SubnetSize"], 2)
        lines.field("Data Path Port", cluster["DataPathPort"], 2)
        lines.title("Orchestration", 2)
        lines.field("Task History Retention Limit", spec["Orchestration"]["TaskHistoryRetentionLimit"], 3)
        lines.title("Raft", 2)
        lines.field("Snapshot Interval", spec["Raft"]["SnapshotInterval"], 3)
        lines.field("Number of Old Snapshots to Retain", spec["Raft"]["KeepOldSnapshots"], 3)
        lease = spec["Raft"].get("ReadLease")
        lines.field("Read Lease", format_duration(lease) if lease else "off", 3)
        lines.title("Dispatcher", 2)
        lines.field("Heartbeat Period", format_duration(spec["Dispatcher"]["HeartbeatPeriod"]), 3)
        lines.title("CA Configuration", 2)
        lines.field("Expiry Duration", format_duration(spec["CAConfig"]["NodeCertExpiry"]), 3)
        lines.field("Autolock Managers", str(spec["EncryptionConfig"]["AutoLockManagers"]).lower(), 2)
        lines.field("Encrypted Networks", "by default" if spec.get("EncryptNetworks") else "where asked for", 2)
    lines.some("Node Address", swarm["NodeAddr"], 2)
    lines.listed("Manager Addresses", sorted(each["Addr"] for each in swarm["RemoteManagers"]), 2)
