"""Networks: create, look, remove. Addresses and VXLAN identifiers are given by the allocator afterwards."""

from collections.abc import Sequence
from typing import Any

from flota.manager.bootstrap import DEFAULT_NETWORK
from flota.manager.control.base import ControlBase
from flota.manager.control.lookup import find, matching
from flota.manager.control.network_room import use_of
from flota.manager.control.network_rules import check_network, check_no_overlap, check_single_ingress
from flota.manager.control.references import publishes
from flota.manager.control.usage import check_unused
from flota.manager.store import Transaction
from flota.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from flota.v1.control_pb2 import (
    CreateNetworkRequest,
    CreateNetworkResponse,
    GetNetworkRequest,
    GetNetworkResponse,
    ListNetworksRequest,
    ListNetworksResponse,
    RemoveNetworkRequest,
    RemoveNetworkResponse,
)
from flota.v1.ids import new_id
from flota.v1.network_options import apply_default
from flota.v1.objects_pb2 import Network, Service
from flota.v1.task_states import is_terminal, task_name


class Networks(ControlBase):
    """The calls about networks."""

    async def GetNetwork(self, request: GetNetworkRequest, context: Any) -> GetNetworkResponse:
        """One network by id or name."""
        store = await self._fresh()
        return GetNetworkResponse(network=find(store.networks, "network", request.network_id))

    async def ListNetworks(self, request: ListNetworksRequest, context: Any) -> ListNetworksResponse:
        """All networks that fulfil the filters."""
        store = await self._fresh()
        networks = matching(store.networks, request.filters)
        use = [use_of(store, network) for network in networks] if request.with_use else ()
        return ListNetworksResponse(networks=networks, use=use)

    async def CreateNetwork(self, request: CreateNetworkRequest, context: Any) -> CreateNetworkResponse:
        """A new overlay network. Raises InvalidArgument, AlreadyExists, Unsupported."""
        if not request.HasField("spec"):
            raise InvalidArgument("the request has no network spec")
        check_network(request.spec)
        id = new_id(self._rng)

        def change(tx: Transaction) -> None:
            name = request.spec.annotations.name
            holder = tx.networks.by_name(name)
            if holder is not None:
                raise AlreadyExists(f"network name {name!r} is taken by network {holder.id}")
            check_single_ingress(request.spec, tx.networks)
            check_no_overlap(request.spec, tx.networks)
            network = Network(id=id, spec=request.spec)
            network.spec.driver.name = "overlay"
            cluster = next(iter(tx.clusters), None)
            if cluster is not None:
                apply_default(network.spec, cluster.spec)
            tx.create(network)

        await self._commit(change)
        created = self._store.networks.get(id)
        assert created is not None
        return CreateNetworkResponse(network=created)

    async def RemoveNetwork(self, request: RemoveNetworkRequest, context: Any) -> RemoveNetworkResponse:
        """Forget a network that nothing is on. Raises NotFound, FailedPrecondition that names its users."""

        def change(tx: Transaction) -> None:
            network = find(tx.networks, "network", request.network_id)
            name = network.spec.annotations.name
            if name == DEFAULT_NETWORK:
                raise FailedPrecondition(f"network {name} is the default network: it cannot be removed")
            if network.spec.ingress:
                users: Sequence[Service] = [service for service in tx.services if publishes(service.spec)]
            else:
                users = tx.services.by("network", network.id)
            check_unused("network", name, network.id, users, self._claims)
            tasks = [task for task in tx.tasks.by("network", network.id) if not is_terminal(task)]
            if tasks:
                count = "1 task that has" if len(tasks) == 1 else f"{len(tasks)} tasks that have"
                raise FailedPrecondition(
                    f"network {name} is in use by {count} not stopped yet, for example {task_name(tasks[0])}"
                )
            tx.remove(network)

        await self._commit(change)
        return RemoveNetworkResponse()
