"""What flota's specs have and Docker's have not survives a Docker client that reads a spec, changes it and writes it:
it drops what it does not know. Pure.
"""

from __future__ import annotations

from flota.gateway.translation.fields import Fields
from flota.v1.specs_pb2 import ClusterSpec, ServiceSpec
from flota.v1.types_pb2 import Mount, PortConfig


def keep_unknown_to_docker(asked: ServiceSpec, given: Fields, stored: ServiceSpec) -> None:
    """Fill in, from the spec that is stored, what the request does not speak of and no Docker client can."""
    if not given.has("DependsOn"):
        asked.depends_on.extend(stored.depends_on)
    if not given.has("Rebalance"):
        asked.rebalance = stored.rebalance
    if not given.has("Stopped"):
        asked.stopped = stored.stopped
    proxied = {_key(port): port.proxy_protocol for port in stored.endpoint.ports}
    for port, raw in zip(asked.endpoint.ports, given.part("EndpointSpec").parts("Ports"), strict=True):
        if not raw.has("ProxyProtocol"):
            port.proxy_protocol = proxied.get(_key(port), port.proxy_protocol)
    task = given.part("TaskTemplate")
    if not task.part("Placement").has("Strategy") and stored.task.placement.strategy:
        asked.task.placement.strategy = stored.task.placement.strategy
    container = task.part("ContainerSpec")
    if not container.has("Devices"):
        asked.task.container.devices.extend(stored.task.container.devices)
    if asked.task.container.HasField("healthcheck") and not container.part("Healthcheck").has("Action"):
        asked.task.container.healthcheck.action = stored.task.container.healthcheck.action
    follow = {mount.target for mount in stored.task.container.mounts if mount.volume_node_affinity}
    for mount, raw in zip(asked.task.container.mounts, container.parts("Mounts"), strict=True):
        if mount.type == Mount.TYPE_VOLUME and mount.target in follow:
            mount.volume_node_affinity = mount.volume_node_affinity or not raw.part("VolumeOptions").has("Affinity")


def _key(port: PortConfig) -> tuple[int, int, int, int]:
    return port.protocol, port.target_port, port.published_port, port.publish_mode


def keep_swarm_unknown_to_docker(asked: ClusterSpec, given: Fields, stored: ClusterSpec) -> None:
    """The same for the specification of the swarm."""
    if not given.has("Strategy"):
        asked.strategy = stored.strategy
    if not given.has("Rebalance"):
        asked.rebalance = stored.rebalance
    if not given.has("EncryptNetworks"):
        asked.encryption.encrypt_networks = stored.encryption.encrypt_networks
    if not given.part("Raft").has("ReadLease") and stored.raft.HasField("read_lease"):
        asked.raft.read_lease.CopyFrom(stored.raft.read_lease)
