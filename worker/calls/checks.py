"""The NetworkChecks service for this node: what its overlay finds when it looks around."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from flota.overlay.checkup import Checkup
from flota.overlay.network import Network
from flota.rpc.errors import FailedPrecondition
from flota.v1 import checks_pb2_grpc
from flota.v1.checks_pb2 import CheckNetworksRequest, NetworkReport


class NetworkChecker(checks_pb2_grpc.NetworkChecksServicer):
    """Answers the managers."""

    def __init__(self, network: Callable[[], Network | None]) -> None:
        """`network` gives None while the machine is in no cluster."""
        self._network = network

    async def CheckNetworks(self, request: CheckNetworksRequest, context: Any) -> AsyncIterator[NetworkReport]:
        """This node's report. Raises FailedPrecondition."""
        network = self._network()
        if network is None:
            raise FailedPrecondition("this machine is in no cluster")
        yield await Checkup(network.view()).report(request.nodes)
