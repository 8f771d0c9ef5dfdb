"""The CA's service on the leader: certificates for joiners and renewals for nodes (see proto/flota/v1/ca.proto)."""

import datetime
from typing import Any

from flota.manager.ca.certificates import NODE_LIFE, Signer
from flota.manager.store import Store, Transaction
from flota.rpc.callers import current_caller
from flota.rpc.errors import FailedPrecondition, NotFound
from flota.v1 import ca_pb2_grpc
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.ca_pb2 import (
    IssueNodeCertificateRequest,
    IssueNodeCertificateResponse,
    WithdrawNodeRequest,
    WithdrawNodeResponse,
)
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Certificate, Cluster, Node
from flota.v1.types_pb2 import NodeRole


class NodeCa(ca_pb2_grpc.NodeCaServicer):
    """Signs; every certificate it gives out stands in the node's object first."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def IssueNodeCertificate(
        self, request: IssueNodeCertificateRequest, context: Any
    ) -> IssueNodeCertificateResponse:
        """A joiner becomes a node of its token's role; a node gets the role that the store has for it."""
        caller = current_caller()
        cluster = self._store.cluster
        if cluster is None:
            raise FailedPrecondition("this swarm has no certificate authority yet")
        if caller.kind == Kind.CALLER_JOINER:
            node = Node(id=new_id(), role=caller.role)
            node.spec.desired_role = caller.role
            node.spec.availability = request.availability
            self._sign(cluster, node, request.csr)
            await self._store.update(lambda tx: tx.create(node))
        else:

            def renew(tx: Transaction) -> Node:
                stored = tx.nodes.get(caller.node_id)
                if stored is None:
                    raise NotFound(f"node {caller.node_id} is not of this cluster (any longer)")
                renewed = Node()
                renewed.CopyFrom(stored)
                self._sign(cluster, renewed, request.csr)
                tx.update(renewed)
                return renewed

            node = await self._store.update(renew)
        return IssueNodeCertificateResponse(
            node_id=node.id,
            certificate=node.certificate,
            role=node.role,
            cluster_id=cluster.id,
            data_path_port=cluster.data_path_port,
        )

    async def WithdrawNode(self, request: WithdrawNodeRequest, context: Any) -> WithdrawNodeResponse:
        """Forget the calling node."""
        node_id = current_caller().node_id

        def remove(tx: Transaction) -> None:
            node = tx.nodes.get(node_id)
            if node is not None:
                tx.remove(node)

        await self._store.update(remove)
        return WithdrawNodeResponse()

    @staticmethod
    def _sign(cluster: Cluster, node: Node, csr: bytes) -> None:
        chain = Signer.of(cluster.root_ca).sign(csr, node.id, node.role, cluster.id, certificate_life(cluster))
        node.certificate.CopyFrom(
            Certificate(role=node.role, csr=csr, state=Certificate.STATE_ISSUED, certificate_chain=chain)
        )


def certificate_life(cluster: Cluster) -> datetime.timedelta:
    """How long node certificates live in this cluster."""
    if cluster.spec.ca.HasField("node_cert_expiry"):
        return cluster.spec.ca.node_cert_expiry.ToTimedelta()
    return NODE_LIFE


def wants_new_certificate(node: Node, certificate_role: "NodeRole.ValueType") -> bool:
    """Whether the node whose certificate says `certificate_role` must renew it now."""
    return node.role != certificate_role or node.certificate.state == Certificate.STATE_ROTATE
