"""What this manager's server trusts at the moment, as the store has it: the root, join tokens, removed nodes."""

from flota.manager.store import Store
from flota.rpc.callers import Trust
from flota.rpc.tokens import JoinToken, join_authority
from flota.v1.objects_pb2 import Cluster, RootCa
from flota.v1.types_pb2 import NodeRole


class ClusterTrust:
    """Called at every handshake and every call (rpc.servers), so it gives the same object while nothing changed."""

    def __init__(self, store: Store, root_pem: bytes) -> None:
        """`root_pem` is what this node itself trusts.

        It counts until the store knows the cluster, for a joining manager must be called back by then, and beside what
        the store has: after a loss of power that may be of before the root was replaced.
        """
        self._store = store
        self._root_pem = root_pem
        self._seen: Cluster | None = None
        self._trust = Trust(root_pem)
        # Deriving an authority from a token costs key arithmetic, and tokens change rarely.
        self._authorities: dict[str, bytes] = {}

    def __call__(self) -> Trust:
        cluster = self._store.cluster
        if cluster is not None and cluster is not self._seen:
            self._seen = cluster
            self._trust = self._read(cluster)
        return self._trust

    def _read(self, cluster: Cluster) -> Trust:
        tokens = cluster.root_ca.join_tokens
        roles = {tokens.worker: NodeRole.NODE_ROLE_WORKER, tokens.manager: NodeRole.NODE_ROLE_MANAGER}
        self._authorities = {
            token: self._authorities.get(token) or join_authority(JoinToken.parse(token)) for token in roles
        }
        return Trust(
            root_pem=self._roots(cluster.root_ca),
            joiners=tuple((self._authorities[token], role) for token, role in roles.items()),
            removed_nodes=frozenset(cluster.removed_nodes),
        )

    def _roots(self, root: RootCa) -> bytes:
        """While the root is being replaced, nodes have certificates of both."""
        if self._root_pem in (root.certificate, root.rotation.certificate):
            # The store knows of it: from here on its word counts.
            self._root_pem = b""
        return root.certificate + root.rotation.certificate + self._root_pem
