"""The NetworkChecks service on the leader: all nodes look at each other at the same time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from flota.manager.nodecalls.calls import NodeCalls
from flota.manager.store import Store
from flota.rpc.errors import FlotaError
from flota.v1 import checks_pb2_grpc
from flota.v1.checks_pb2 import CheckedNode, CheckNetworksRequest, NetworkReport
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodeState

_METHOD = "/flota.v1.NetworkChecks/CheckNetworks"
# Nodes that look at the same time, and the seconds one may take.
_AT_ONCE = 50
_LIMIT = 60.0


class NetworkCheckCalls(checks_pb2_grpc.NetworkChecksServicer):
    """Register it on a manager's servers."""

    def __init__(self, store: Store, nodes: NodeCalls) -> None:
        self._store = store
        self._nodes = nodes

    async def CheckNetworks(self, request: CheckNetworksRequest, context: Any) -> AsyncIterator[NetworkReport]:
        """One report per node that is not DOWN. What keeps a node from answering is in its report."""
        up = [node for node in self._store.nodes if node.status.state != NodeState.NODE_STATE_DOWN]
        slots = asyncio.Semaphore(_AT_ONCE)
        asking = [asyncio.create_task(self._ask(node, up, slots), name="network check") for node in up]
        try:
            for answer in asyncio.as_completed(asking):
                yield await answer
        finally:
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, node: Node, up: list[Node], slots: asyncio.Semaphore) -> NetworkReport:
        others = [
            CheckedNode(id=one.id, address=one.description.data_path_address or one.status.address)
            for one in up
            if one.id != node.id
        ]
        request = CheckNetworksRequest(nodes=others).SerializeToString()
        try:
            async with (
                slots,
                asyncio.timeout(_LIMIT),
                aclosing(self._nodes.call(node.id, _METHOD, _only(request))) as it,
            ):
                async for answer in it:
                    report = NetworkReport.FromString(answer)
                    report.clock_ahead_seconds = report.now.ToNanoseconds() / 1e9 - time.time()
                    return report
        except TimeoutError:
            return NetworkReport(node_id=node.id, error=f"it was not done after {_LIMIT:.0f} s")
        except FlotaError as error:
            return NetworkReport(node_id=node.id, error=str(error))
        return NetworkReport(node_id=node.id, error="it gave no answer")


async def _only(request: bytes) -> AsyncIterator[bytes]:
    yield request
