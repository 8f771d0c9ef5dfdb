"""Another root for a cluster that goes on working (SwarmKit's ca/reconciler.go has the same steps).

1. A rotation begins: the coming root stands beside the trusted one, which signs its name and key, too (cross-signed).
2. Every node is told to renew its certificate and gets one of the coming root. Who trusts the old root believes it by
   the cross-signed certificate in its chain; managers believe certificates of both.
3. Once every node has told that it has one, also those that were down, the coming root becomes the root: join tokens
   change with it, and nodes hear over their sessions whom to trust from then on.

Another root may be asked for meanwhile, also the one that is trusted: then that is the coming one, and step 2 begins
anew.
"""

import datetime

import structlog

from flota.manager.ca.certificates import create_root, cross_sign
from flota.manager.ca.given import given_root
from flota.manager.store import Store, Transaction
from flota.rpc import x509_facts
from flota.rpc.errors import InvalidArgument
from flota.rpc.tokens import JoinToken, root_digest
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Certificate, Cluster, Node, RootCa, RootRotation
from flota.v1.specs_pb2 import CaConfig

_log = structlog.get_logger("ca")


def begin(root: RootCa, asked: CaConfig, now: datetime.datetime) -> None:
    """Change `root` so that another one takes over: the one in `asked`, or a new one.

    A rotation that is under way is given up for it. Nodes that have a certificate of the root that does not come after
    all are believed by the root that is trusted, and are told to renew like the others. So one can also go back.

    Raises InvalidArgument (a certificate or key that will not do).
    """
    if asked.signing_certificate or asked.signing_key:
        certificate, key = given_root(asked.signing_certificate, asked.signing_key, now)
    else:
        # A name of its own: chains are found by names.
        certificate, key = create_root(f"swarm-ca-{new_id()[:8]}")
    if certificate == root.certificate and not root.HasField("rotation"):
        raise InvalidArgument("invalid CA certificate: it is the root already: another one, or none, is needed")
    coming = RootRotation(certificate=certificate, private_key=key)
    if certificate == root.certificate:
        coming.cross_signed = root.cross_signed
    else:
        coming.cross_signed = cross_sign(certificate, root.certificate, root.private_key)
    root.rotation.CopyFrom(coming)


def finish(root: RootCa) -> None:
    """Make the coming root of a rotation the root."""
    coming = root.rotation
    if coming.certificate == root.certificate:
        root.ClearField("rotation")
        return
    root.certificate, root.private_key, root.cross_signed = coming.certificate, coming.private_key, coming.cross_signed
    root.digest = root_digest(root.certificate)
    root.join_tokens.worker = str(JoinToken.make(root.certificate))
    root.join_tokens.manager = str(JoinToken.make(root.certificate))
    root.ClearField("rotation")


class RootRotator:
    """A loop of the leader: takes a rotation to its end."""

    name = "root rotator"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Runs until cancelled."""
        with self._store.watch("cluster", "node") as changes:
            while True:
                cluster = self._store.cluster
                if cluster is not None and cluster.root_ca.HasField("rotation"):
                    await self._store.update(_advance)
                await changes.next()
                changes.drain()


def _advance(tx: Transaction) -> None:
    """Tell who has not renewed to do so, or finish."""
    cluster = next(iter(tx.clusters), None)
    if cluster is None or not cluster.root_ca.HasField("rotation"):
        return
    coming = cluster.root_ca.rotation.certificate
    behind = [node for node in tx.nodes if not _is_there(node, coming)]
    for node in behind:
        # One that has a new certificate, and has not told of it yet, is told nothing.
        if node.certificate.state != Certificate.STATE_ROTATE and not _was_given(node, coming):
            told = Node()
            told.CopyFrom(node)
            told.certificate.state = Certificate.STATE_ROTATE
            tx.update(told)
    if not behind:
        changed = Cluster()
        changed.CopyFrom(cluster)
        finish(changed.root_ca)
        tx.update(changed)
        _log.info("another root certificate is trusted from now on", digest=changed.root_ca.digest)


def _is_there(node: Node, coming: bytes) -> bool:
    """Whether the node uses a certificate of the coming root, and was given none of another one since."""
    return x509_facts.is_issuer(coming, node.description.tls_info) and _was_given(node, coming)


def _was_given(node: Node, coming: bytes) -> bool:
    """Whether the node's newest certificate is of the coming root."""
    try:
        issuer = x509_facts.read_issuer(node.certificate.certificate_chain)
    except ValueError:
        return False
    root = x509_facts.read(coming)
    return (issuer.subject_der, issuer.public_key_der) == (root.subject_der, root.public_key_der)
