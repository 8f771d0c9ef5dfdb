"""What a new cluster begins with: the cluster object, its root and tokens, the first node, two networks.

Made in one transaction by the first manager. `first_identity` runs before, in the daemon: a manager needs its
certificate to start at all.
"""

from google.protobuf.duration_pb2 import Duration

from flota.manager.ca.certificates import NODE_LIFE, Signer, create_request, create_root
from flota.manager.ca.join import IssuedIdentity
from flota.manager.store import Transaction
from flota.rpc.tokens import JoinToken, root_digest
from flota.rpc.unlock_keys import new_unlock_key
from flota.v1.ids import new_id
from flota.v1.local_pb2 import InitRequest
from flota.v1.network_options import apply_default
from flota.v1.objects_pb2 import Certificate, Cluster, Network, Node
from flota.v1.specs_pb2 import ClusterSpec
from flota.v1.types_pb2 import Driver, IpamConfig, NodeRole

CLUSTER_NAME = "default"
DEFAULT_NETWORK = "flota"
INGRESS_NETWORK = "ingress"
DEFAULT_POOLS = ("10.0.0.0/8",)
DEFAULT_SUBNET_LENGTH = 24
DEFAULT_DATA_PATH_PORT = 4789
# Docker's is 5 s; liveness costs flota no store write, so it can afford to notice a dead node sooner.
DEFAULT_HEARTBEAT_SECONDS = 1


def first_identity() -> tuple[IssuedIdentity, bytes]:
    """A new root and the first manager's certificate; gives back the identity and PEM of the root's key."""
    root_pem, root_key = create_root()
    request_pem, key_pem = create_request()
    node_id, cluster_id = new_id(), new_id()
    chain = Signer(root_pem, root_key).sign(request_pem, node_id, NodeRole.NODE_ROLE_MANAGER, cluster_id)
    identity = IssuedIdentity(node_id, cluster_id, NodeRole.NODE_ROLE_MANAGER, chain, key_pem, root_pem)
    return identity, root_key


def default_spec(asked: ClusterSpec) -> ClusterSpec:
    """What the user asked for, with every default written out (Docker's, except for the heartbeat)."""
    spec = ClusterSpec()
    spec.CopyFrom(asked)
    spec.annotations.name = CLUSTER_NAME
    if not spec.orchestration.HasField("task_history_retention_limit"):
        spec.orchestration.task_history_retention_limit = 5
    if not spec.dispatcher.HasField("heartbeat_period"):
        spec.dispatcher.heartbeat_period.CopyFrom(Duration(seconds=DEFAULT_HEARTBEAT_SECONDS))
    if not spec.ca.HasField("node_cert_expiry"):
        spec.ca.node_cert_expiry.FromTimedelta(NODE_LIFE)
    spec.raft.snapshot_interval = spec.raft.snapshot_interval or 10_000
    spec.raft.log_entries_for_slow_followers = spec.raft.log_entries_for_slow_followers or 500
    return spec


def create_cluster(
    tx: Transaction, init: InitRequest, cluster_id: str, node_id: str, hostname: str, certificate_pem: bytes,
    root_pem: bytes, root_key: bytes,
) -> None:  # fmt: skip
    """Fill an empty store. Does nothing when there is a cluster already (a restart in the middle of `init`)."""
    if len(tx.clusters):
        return
    cluster = Cluster(
        id=cluster_id,
        spec=default_spec(init.spec),
        address_pools=_pools(init),
        subnet_length=init.subnet_length or DEFAULT_SUBNET_LENGTH,
        data_path_port=init.data_path_port or DEFAULT_DATA_PATH_PORT,
    )
    cluster.root_ca.certificate = root_pem
    cluster.root_ca.private_key = root_key
    cluster.root_ca.digest = root_digest(root_pem)
    cluster.root_ca.join_tokens.worker = str(JoinToken.make(root_pem))
    cluster.root_ca.join_tokens.manager = str(JoinToken.make(root_pem))
    if cluster.spec.encryption.auto_lock_managers:
        cluster.unlock_key = new_unlock_key()
    tx.create(cluster)

    tx.create(_first_node(init, node_id, hostname, certificate_pem))

    ingress = Network(id=new_id())
    ingress.spec.annotations.name = INGRESS_NETWORK
    ingress.spec.driver.CopyFrom(Driver(name="overlay"))
    ingress.spec.ingress = True
    # Published ports answer by IPv6, too.
    ingress.spec.ipv6_enabled = True
    ingress.spec.ipam.append(IpamConfig(subnet="10.0.0.0/24"))

    default = Network(id=new_id())
    default.spec.annotations.name = DEFAULT_NETWORK
    default.spec.driver.CopyFrom(Driver(name="overlay"))
    default.spec.ipv6_enabled = any(":" in pool for pool in cluster.address_pools)
    for network in (ingress, default):
        apply_default(network.spec, cluster.spec)
        tx.create(network)


def _pools(init: InitRequest) -> list[str]:
    """Those that were asked for. There is IPv4 in any case."""
    asked = list(init.address_pools)
    return asked if any(":" not in pool for pool in asked) else [*DEFAULT_POOLS, *asked]


def _first_node(init: InitRequest, node_id: str, hostname: str, certificate_pem: bytes) -> Node:
    node = Node(id=node_id, role=NodeRole.NODE_ROLE_MANAGER)
    node.spec.desired_role = NodeRole.NODE_ROLE_MANAGER
    node.spec.availability = init.availability
    node.description.hostname = hostname
    node.certificate.CopyFrom(
        Certificate(role=node.role, state=Certificate.STATE_ISSUED, certificate_chain=certificate_pem)
    )
    return node


def take_over(tx: Transaction, init: InitRequest, node_id: str, hostname: str, certificate_pem: bytes) -> None:
    """After a backup was restored: this node is a manager of that cluster, and the only one."""
    if tx.nodes.get(node_id) is None:
        tx.create(_first_node(init, node_id, hostname, certificate_pem))
    begin_anew(tx, node_id)


def restored_identity(cluster: Cluster) -> IssuedIdentity:
    """The certificate of a new manager of a cluster whose root key a backup holds."""
    root_pem = cluster.root_ca.certificate
    request_pem, key_pem = create_request()
    node_id, role = new_id(), NodeRole.NODE_ROLE_MANAGER
    chain = Signer.of(cluster.root_ca).sign(request_pem, node_id, role, cluster.id)
    return IssuedIdentity(node_id, cluster.id, role, chain, key_pem, root_pem, cluster.data_path_port)


def begin_anew(tx: Transaction, node_id: str) -> None:
    """After a new cluster was forced: the managers that are gone for good are workers, should they ever come back."""
    for node in list(tx.nodes):
        if node.id == node_id or NodeRole.NODE_ROLE_MANAGER not in (node.role, node.spec.desired_role):
            continue
        changed = Node()
        changed.CopyFrom(node)
        changed.role = changed.spec.desired_role = NodeRole.NODE_ROLE_WORKER
        changed.certificate.state = Certificate.STATE_ROTATE
        changed.ClearField("manager_status")
        tx.update(changed)
