"""The NodeVolumes service on the leader: the node that is named answers."""

from typing import Any

from flota.manager.nodecalls.calls import NodeCalls
from flota.rpc.errors import InvalidArgument
from flota.v1 import volumes_pb2_grpc
from flota.v1.local_pb2 import (
    CreateVolumeResponse,
    ListVolumesResponse,
    PruneVolumesResponse,
    RemoveVolumeResponse,
)
from flota.v1.volumes_pb2 import (
    CreateNodeVolumeRequest,
    ListNodeVolumesRequest,
    PruneNodeVolumesRequest,
    RemoveNodeVolumeRequest,
)

_SERVICE = "/flota.v1.Agent/"


class VolumeCalls(volumes_pb2_grpc.NodeVolumesServicer):
    """Register it on a manager's servers. All calls raise InvalidArgument, NotFound and Unavailable (the node), and
    what the node's worker raises."""

    def __init__(self, nodes: NodeCalls) -> None:
        self._nodes = nodes

    async def CreateVolume(self, request: CreateNodeVolumeRequest, context: Any) -> CreateVolumeResponse:
        """A volume on that node."""
        return await self._nodes.ask(
            _node(request.node_id), f"{_SERVICE}CreateVolume", request.request, CreateVolumeResponse
        )

    async def ListVolumes(self, request: ListNodeVolumesRequest, context: Any) -> ListVolumesResponse:
        """Those of that node, with who uses them."""
        return await self._nodes.ask(
            _node(request.node_id), f"{_SERVICE}ListVolumes", request.request, ListVolumesResponse
        )

    async def RemoveVolume(self, request: RemoveNodeVolumeRequest, context: Any) -> RemoveVolumeResponse:
        """One of that node."""
        return await self._nodes.ask(
            _node(request.node_id), f"{_SERVICE}RemoveVolume", request.request, RemoveVolumeResponse
        )

    async def PruneVolumes(self, request: PruneNodeVolumesRequest, context: Any) -> PruneVolumesResponse:
        """Those of that node that nothing uses."""
        return await self._nodes.ask(
            _node(request.node_id), f"{_SERVICE}PruneVolumes", request.request, PruneVolumesResponse
        )


def _node(node_id: str) -> str:
    if not node_id:
        raise InvalidArgument("node_id is missing: which node?")
    return node_id
