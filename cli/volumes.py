"""The volumes of the cluster's nodes, as far as this daemon knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.types_pb2 import Volume


class Placed(NamedTuple):
    """A volume and the hostname of its node."""

    volume: Volume
    node: str


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
    return [Placed(volume, node.description.hostname) for node in nodes for volume in node.description.volumes]
