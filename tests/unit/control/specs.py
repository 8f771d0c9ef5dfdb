"""Short ways to say what is asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from flota.rpc.errors import FlotaError
from flota.v1.control_pb2 import (
    CreateConfigRequest,
    CreateNetworkRequest,
    CreateSecretRequest,
    CreateServiceRequest,
    UpdateServiceRequest,
)
from flota.v1.objects_pb2 import Config, Network, Secret, Service
from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec
from flota.v1.types_pb2 import Annotations, NetworkAttachmentConfig, SecretReference
from tests.unit.control.cluster import Cluster


@contextmanager
def refused(kind: type[FlotaError], said: str) -> Iterator[None]:
    """What is done within fails with this error, in exactly these words (… at the end: and more)."""
    with pytest.raises(kind) as caught:
        yield
    words = str(caught.value)
    assert words.startswith(said[:-1]) if said.endswith("…") else words == said, words


Change = Callable[[ServiceSpec], object]


def service_spec(name: str = "web", *changes: Change) -> ServiceSpec:
    """A service of busybox, changed."""
    spec = ServiceSpec(annotations=Annotations(name=name))
    spec.task.container.image = "busybox"
    for change in changes:
        change(spec)
    return spec


async def create_service(cluster: Cluster, name: str = "web", *changes: Change) -> Service:
    """Create one."""
    request = CreateServiceRequest(spec=service_spec(name, *changes))
    return (await cluster.control.CreateService(request, None)).service


async def update_service(cluster: Cluster, service: Service, *changes: Change) -> Service:
    """Change one, resting on what `service` says."""
    spec = ServiceSpec.FromString(service.spec.SerializeToString())
    for change in changes:
        change(spec)
    request = UpdateServiceRequest(service_id=service.id, version=service.meta.version, spec=spec)
    return (await cluster.control.UpdateService(request, None)).service


async def create_network(cluster: Cluster, name: str, *subnets: str) -> Network:
    """Create one."""
    spec = NetworkSpec(annotations=Annotations(name=name))
    for subnet in subnets:
        spec.ipam.add(subnet=subnet)
    return (await cluster.control.CreateNetwork(CreateNetworkRequest(spec=spec), None)).network


async def create_secret(cluster: Cluster, name: str, data: bytes = b"x") -> Secret:
    """Create one."""
    spec = SecretSpec(annotations=Annotations(name=name), data=data)
    return (await cluster.control.CreateSecret(CreateSecretRequest(spec=spec), None)).secret


async def create_config(cluster: Cluster, name: str, data: bytes = b"x") -> Config:
    """Create one."""
    spec = ConfigSpec(annotations=Annotations(name=name), data=data)
    return (await cluster.control.CreateConfig(CreateConfigRequest(spec=spec), None)).config


def on_network(target: str, *aliases: str) -> Change:
    """The service is on a network."""
    return lambda spec: spec.task.networks.append(NetworkAttachmentConfig(target=target, aliases=aliases))


def with_secret(name: str) -> Change:
    """The service uses a secret."""
    return lambda spec: spec.task.container.secrets.append(SecretReference(secret_name=name))


def replicas(count: int) -> Change:
    """So many of them."""

    def change(spec: ServiceSpec) -> None:
        spec.replicated.replicas = count

    return change


def image(name: str) -> Change:
    """Another image."""
    return lambda spec: setattr(spec.task.container, "image", name)
