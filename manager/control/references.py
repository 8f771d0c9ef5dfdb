"""References of a service to networks, secrets and configs: names become ids, and what is named must exist.

Works within a transaction: what a service refers to is required at its version, so that it cannot have gone by the
time the service is there.
"""

from typing import TypeVar

from flota.manager.bootstrap import DEFAULT_NETWORK
from flota.manager.control.claims import Claim
from flota.manager.control.container_rules import check_file
from flota.manager.control.names import check_unique
from flota.manager.store import Transaction, View
from flota.rpc.errors import FailedPrecondition, InvalidArgument, NotFound
from flota.v1.network_options import BRIDGE, PREDEFINED
from flota.v1.objects_pb2 import Config, Network, Secret
from flota.v1.specs_pb2 import ServiceSpec, TaskSpec
from flota.v1.types_pb2 import FileTarget, PortConfig

M = TypeVar("M", Network, Secret, Config)
# Docker's mode of secrets and configs: everybody in the container may read them.
_FILE_MODE = 0o444


def resolve(tx: Transaction, spec: ServiceSpec, claim: Claim) -> None:
    """Fill ids (and names) into `spec`. Raises NotFound, InvalidArgument, FailedPrecondition, Unsupported; then `spec`
    is half filled.
    """
    _resolve_files(tx, spec.task, claim)
    _resolve_networks(tx, spec.task, claim)
    _check_predefined(spec)
    require_ingress(tx, spec, claim)


def publishes(spec: ServiceSpec) -> bool:
    """Whether a service needs the ingress network."""
    return any(port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS for port in spec.endpoint.ports)


def require_ingress(tx: Transaction, spec: ServiceSpec, claim: Claim) -> None:
    """The network of published ports is there if the service needs it. Raises FailedPrecondition."""
    if not publishes(spec):
        return
    network = next((network for network in tx.networks if network.spec.ingress), None)
    if network is None:
        [port, *_] = (port for port in spec.endpoint.ports if port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS)
        raise FailedPrecondition(
            f"port {port.published_port or port.target_port} is published on every node, and the swarm has no ingress "
            "network for that: make one with network create --ingress, or publish with mode=host"
        )
    tx.require(network)
    claim.add(network.id)


def _find(tx: Transaction, view: View[M], word: str, id: str, name: str, claim: Claim) -> M:
    found = view.get(id) if id else None
    if found is None and name:
        found = view.by_name(name)
    if found is None and id:
        found = view.by_name(id)
    if found is None:
        raise NotFound(f"{word} {name or id} not found")
    tx.require(found)
    claim.add(found.id)
    return found


def _resolve_files(tx: Transaction, task: TaskSpec, claim: Claim) -> None:
    for reference in task.container.secrets:
        secret = _find(tx, tx.secrets, "secret", reference.secret_id, reference.secret_name, claim)
        reference.secret_id, reference.secret_name = secret.id, secret.spec.annotations.name
        if not reference.HasField("file"):
            reference.file.mode = _FILE_MODE
        _fill_file(reference.file, reference.secret_name)
        check_file("secret", reference.file)
    for mention in task.container.configs:
        config = _find(tx, tx.configs, "config", mention.config_id, mention.config_name, claim)
        mention.config_id, mention.config_name = config.id, config.spec.annotations.name
        if not mention.HasField("file"):
            mention.file.mode = _FILE_MODE
        _fill_file(mention.file, f"/{mention.config_name}")
        check_file("config", mention.file)
    check_unique("secret target", (reference.file.name for reference in task.container.secrets))
    check_unique("config target", (mention.file.name for mention in task.container.configs))


def _fill_file(file: FileTarget, name: str) -> None:
    file.name = file.name or name
    file.uid = file.uid or "0"
    file.gid = file.gid or "0"


def _resolve_networks(tx: Transaction, task: TaskSpec, claim: Claim) -> None:
    if not task.networks:
        default = tx.networks.by_name(DEFAULT_NETWORK)
        if default is not None:
            task.networks.add(target=default.id)
    seen: set[str] = set()
    for attachment in task.networks:
        if attachment.target in PREDEFINED:
            if attachment.target in seen:
                raise InvalidArgument.of("network", attachment.target, "it is given twice")
            seen.add(attachment.target)
            continue
        network = _find(tx, tx.networks, "network", attachment.target, "", claim)
        if network.spec.ingress:
            raise InvalidArgument.of(
                "network", attachment.target, "the ingress network is for published ports, services cannot be put on it"
            )
        if network.id in seen:
            raise InvalidArgument.of("network", network.spec.annotations.name, "it is given twice")
        seen.add(network.id)
        attachment.target = network.id


def _check_predefined(spec: ServiceSpec) -> None:
    """Networks that every node has by itself: who is on the node's own, or on none, is on no other."""
    targets = [attachment.target for attachment in spec.task.networks]
    predefined = next((target for target in targets if target in PREDEFINED), "")
    if not predefined:
        return
    if predefined != BRIDGE and len(targets) > 1:
        raise InvalidArgument.of("network", predefined, "who is on it can be on no other network")
    for port in spec.endpoint.ports:
        if port.proxy_protocol and predefined != BRIDGE:
            raise InvalidArgument.of(
                "PROXY protocol of port",
                port.published_port or port.target_port,
                f"on network {predefined} programs answer clients themselves",
            )
        if port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS:
            raise InvalidArgument.of(
                "published port",
                port.published_port or port.target_port,
                f"mode=host is needed on network {predefined}: the mesh does not lead there",
            )
