"""The volumes of the cluster's nodes: where they are, and what is done with them there.

What is done on this machine is asked of its own worker, also without a quorum; the rest of the managers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import click

from flota.cli import completing, lookup
from flota.cli.failures import CommandFailed

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.local_pb2 import CreateVolumeRequest, PruneVolumesRequest, PruneVolumesResponse
    from flota.v1.types_pb2 import Volume

node_option = click.option(
    "--node", default="", metavar="NODE", help="The node that is meant.", shell_complete=completing.nodes
)

# More nodes than that are not asked at the same time.
_AT_ONCE = 32


class Placed(NamedTuple):
    """A volume and its node: hostname and id (empty for this machine)."""

    volume: Volume
    node: str
    node_id: str = ""
    # Whether its node was asked: path, tasks and size are known then.
    asked: bool = False


async def of_this_node(session: Session, sizes: bool = False, name: str = "") -> list[Placed]:
    """With all that is known of them; those called `name`, if that is said."""
    from flota.v1.local_pb2 import InfoRequest, ListVolumesRequest

    answer = await session.agent.ListVolumes(ListVolumesRequest(sizes=sizes, names=[name] if name else ()))
    hostname = (await session.local.Info(InfoRequest())).description.hostname
    return [Placed(volume, hostname, asked=True) for volume in answer.volumes]


async def of_all_nodes(session: Session) -> list[Placed]:
    """As nodes report them; on a machine that is no manager, those that are here."""
    import grpc

    from flota.v1.control_pb2 import ListNodesRequest

    try:
        nodes = (await session.control.ListNodes(ListNodesRequest())).nodes
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
            raise
        return await of_this_node(session)
    return [Placed(volume, node.description.hostname, node.id) for node in nodes for volume in node.description.volumes]


async def asked_of(session: Session, reported: Iterable[Placed], sizes: bool, name: str = "") -> list[Placed]:
    """The same, with what only their nodes know; those called `name`, if that is said.

    Of a node that does not answer what it had reported, and a warning.
    """
    import asyncio

    by_node: dict[str, list[Placed]] = {}
    for one in reported:
        if not name or one.volume.name == name:
            by_node.setdefault(one.node_id, []).append(one)
    few = asyncio.Semaphore(_AT_ONCE)

    async def ask(node_id: str, known: list[Placed]) -> list[Placed]:
        async with few:
            return await _ask(session, node_id, known, sizes, name)

    answers = await asyncio.gather(*(ask(node_id, known) for node_id, known in by_node.items()))
    return [one for answer in answers for one in answer]


async def _ask(session: Session, node_id: str, known: list[Placed], sizes: bool, name: str) -> list[Placed]:
    import grpc

    from flota.cli.session import failure_of
    from flota.v1.local_pb2 import ListVolumesRequest
    from flota.v1.volumes_pb2 import ListNodeVolumesRequest

    if not node_id:
        return await of_this_node(session, sizes, name)
    request = ListVolumesRequest(sizes=sizes, names=[name] if name else ())
    try:
        answer = await session.volumes.ListVolumes(ListNodeVolumesRequest(node_id=node_id, request=request))
    except grpc.aio.AioRpcError as error:
        click.echo(f"flota: warning: {failure_of(error, session.host)}", err=True)
        return known
    return [Placed(volume, known[0].node, node_id, asked=True) for volume in answer.volumes]


async def create(session: Session, node: str, request: CreateVolumeRequest) -> str:
    """Make a volume on `node` (empty: this one); its name."""
    from flota.v1.volumes_pb2 import CreateNodeVolumeRequest

    if not node:
        return (await session.agent.CreateVolume(request)).volume.name
    there = CreateNodeVolumeRequest(node_id=(await lookup.node(session, node)).id, request=request)
    return (await session.volumes.CreateVolume(there)).volume.name


async def remove(session: Session, node: str, name: str, force: bool) -> None:
    """Remove a volume of `node`; if that is empty this node's, or that of the only node that has one of that name.

    `force`: it need not be there. Raises CommandFailed.
    """
    import grpc

    from flota.v1.local_pb2 import RemoveVolumeRequest

    if node:
        await _remove_there(session, (await lookup.node(session, node)).id, name, force)
        return
    try:
        await session.agent.RemoveVolume(RemoveVolumeRequest(name=name))
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        elsewhere = [one for one in await of_all_nodes(session) if one.volume.name == name]
        if len(elsewhere) > 1:
            nodes = ", ".join(one.node for one in elsewhere)
            raise CommandFailed(
                f"no such volume on this node: {name} (it is on {nodes}: say which with --node)"
            ) from None
        if elsewhere and elsewhere[0].node_id:
            await _remove_there(session, elsewhere[0].node_id, name, force)
        elif not force:
            raise CommandFailed(f"no such volume: {name}") from None


async def _remove_there(session: Session, node_id: str, name: str, force: bool) -> None:
    from flota.v1.local_pb2 import RemoveVolumeRequest
    from flota.v1.volumes_pb2 import RemoveNodeVolumeRequest

    request = RemoveVolumeRequest(name=name, force=force)
    await session.volumes.RemoveVolume(RemoveNodeVolumeRequest(node_id=node_id, request=request))


async def prune(session: Session, node_id: str, request: PruneVolumesRequest) -> PruneVolumesResponse:
    """Remove the volumes of a node (empty: this one) that nothing uses."""
    from flota.v1.volumes_pb2 import PruneNodeVolumesRequest

    if not node_id:
        return await session.agent.PruneVolumes(request)
    return await session.volumes.PruneVolumes(PruneNodeVolumesRequest(node_id=node_id, request=request))
