"""What there is of a stack in the cluster: everything with its label."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flota.stacks.records import REVISION
from flota.stacks.translation.names import NAMESPACE
from flota.v1.stack_records import RECORD, is_record

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.control_pb2 import ListFilters
    from flota.v1.objects_pb2 import Config, Network, Secret, Service, Task


@dataclass
class Inventory:
    """The things of one stack, by name."""

    services: dict[str, Service]
    networks: dict[str, Network]
    secrets: dict[str, Secret]
    configs: dict[str, Config]
    # Configs that are the stack's past (records.py), not its parts.
    records: list[Config] = field(default_factory=list)

    def __bool__(self) -> bool:
        """True when there is anything at all."""
        return bool(self.services or self.networks or self.secrets or self.configs or self.records)


def of_stack(name: str) -> ListFilters:
    """The filter for things of a stack."""
    from flota.v1.control_pb2 import ListFilters

    return ListFilters(labels={NAMESPACE: name})


async def services_of(session: Session, name: str) -> list[Service]:
    """The services of a stack."""
    from flota.v1.control_pb2 import ListServicesRequest

    return list((await session.control.ListServices(ListServicesRequest(filters=of_stack(name)))).services)


async def inventory(session: Session, name: str) -> Inventory:
    """All that a stack has."""
    from flota.v1.control_pb2 import ListConfigsRequest, ListNetworksRequest, ListSecretsRequest

    mine = of_stack(name)
    services, networks, secrets, configs = await asyncio.gather(
        services_of(session, name),
        session.control.ListNetworks(ListNetworksRequest(filters=mine)),
        session.control.ListSecrets(ListSecretsRequest(filters=mine)),
        session.control.ListConfigs(ListConfigsRequest(filters=mine)),
    )
    return Inventory(
        {service.spec.annotations.name: service for service in services},
        {network.spec.annotations.name: network for network in networks.networks},
        {secret.spec.annotations.name: secret for secret in secrets.secrets},
        {config.spec.annotations.name: config for config in configs.configs if not is_record(config)},
        [config for config in configs.configs if config.spec.annotations.labels.get(RECORD) == REVISION],
    )


async def tasks_of(session: Session, service_ids: list[str]) -> list[Task]:
    """The tasks of some services."""
    from flota.v1.control_pb2 import ListFilters, ListTasksRequest

    if not service_ids:
        return []
    request = ListTasksRequest(filters=ListFilters(service_ids=service_ids))
    return list((await session.control.ListTasks(request)).tasks)
