"""A backup becomes a swarm of one manager, this machine: the same cluster (root, tokens, services), a new node of it.

The other managers of the backup are workers in it. Nodes that still run find their way by themselves when this
manager has the address of one they know; all others join anew.
"""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from flota.manager.bootstrap import restored_identity
from flota.node import addresses
from flota.node.entering import entering, introduction
from flota.node.node import Founding, Node
from flota.rpc.backups import Backup, read_backup
from flota.rpc.errors import InvalidArgument
from flota.rpc.unlock_keys import parse_unlock_key
from flota.v1.local_pb2 import InitRequest, RestoreRequest, RestoreResponse
from flota.v1.objects_pb2 import Cluster
from flota.v1.process_pb2 import NodeRecord
from flota.v1.store_pb2 import StoreSnapshot
from flota.v1.types_pb2 import Peer

_log = structlog.get_logger("node")


async def restore(node: Node, parts: AsyncIterator[RestoreRequest]) -> RestoreResponse:
    """Begin a swarm with what a backup holds. Raises a FlotaError, and then nothing has changed."""
    options, data = await _received(parts)
    key = parse_unlock_key(options.unlock_key) if options.unlock_key else b""
    backup = await asyncio.to_thread(lambda: read_backup(io.BytesIO(data), "the backup"))
    snapshot = await asyncio.to_thread(backup.snapshot, key)
    cluster = await asyncio.to_thread(_cluster, snapshot)
    # The run directory is memory: nothing that a key protects comes to lie on a disk in clear.
    file = node.places.run / "restore"
    async with entering(node, "restore"):
        try:
            await asyncio.to_thread(_write, file, snapshot)
            await _begin(node, options, cluster, file, backup)
            answer = await introduction(node)
            await node.save_record()
            node.founding = None
        finally:
            file.unlink(missing_ok=True)
    _log.info("a swarm was restored", cluster=cluster.id, index=backup.header.index, node_id=answer.node_id)
    return RestoreResponse(
        node_id=answer.node_id,
        tokens=answer.tokens,
        address=answer.address,
        services=backup.header.objects["service"],
        other_nodes=backup.header.objects["node"],
    )


async def _received(parts: AsyncIterator[RestoreRequest]) -> tuple[RestoreRequest.Options, bytes]:
    options = RestoreRequest.Options()
    data = bytearray()
    async for part in parts:
        if part.HasField("options"):
            options = part.options
        else:
            data += part.data
    return options, bytes(data)


def _cluster(snapshot: bytes) -> Cluster:
    found = [thing.cluster for thing in StoreSnapshot.FromString(snapshot).objects if thing.HasField("cluster")]
    if not found:
        raise InvalidArgument("the backup holds no cluster: use another one")
    return found[0]


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


async def _begin(node: Node, options: RestoreRequest.Options, cluster: Cluster, file: Path, backup: Backup) -> None:
    interfaces = addresses.machine_interfaces
    listen = await addresses.listen_address(options.listen_address, interfaces)
    advertise = await addresses.advertise_address(options.advertise_address, listen, "", interfaces)
    data_path = await addresses.data_path_address(options.data_path_address, advertise, interfaces)
    issued = await asyncio.to_thread(restored_identity, cluster)
    await node.take_identity(issued)
    node.record = NodeRecord(
        listen_address=listen,
        advertise_address=advertise,
        data_path_address=data_path,
        data_path_port=cluster.data_path_port,
        managers=[Peer(node_id=issued.node_id, address=advertise)],
        advertise_interface=await addresses.interface_with(advertise, interfaces),
    )
    node.founding = Founding(InitRequest(), b"", file, backup.header.index)
    await node.manager.start(node.manager_config)
    await node.worker.become(node.worker_config)
    await node.until_in_session()
    if cluster.spec.encryption.auto_lock_managers:
        await node.until_kept_locked()
