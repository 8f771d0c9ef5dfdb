"""The volumes of the cluster's nodes: where they are, and what is done with them there.

What is done on this machine is asked of its own worker, also without a quorum; the rest of the managers.
"""

from __future__ import annotations

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


class Placed(NamedTuple):
    """A volume and its node: hostname and id (empty for this machine)."""

    volume: Volume
    node: str
    node_id: str = ""


async def of_this_node(session: Session, sizes: bool = False) -> list[Placed]:
    """With all that is known of them."""
    from flota.v1.local_pb2 import InfoRequest, ListVolumesRequest

    answer = await session.agent.ListVolumes(ListVolumesRequest(sizes=sizes))
    hostname = (await session.local.Info(InfoRequest())).description.hostname
    return [Placed(volume, hostname) for volume in answer.volumes]


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
