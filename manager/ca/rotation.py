"""Another root for a cluster that goes on working (SwarmKit's ca/reconciler.go has the same steps).

1. A rotation begins: the coming root stands beside the trusted one, which signs its name and key, too (cross-signed).
2. Every node is told to renew its certificate and gets one of the coming root. Who trusts the old root believes it by
   the cross-signed certificate in its chain; managers believe certificates of both.
3. Once every node has told that it has one, also those that were down, the coming root becomes the root: join tokens
   change with it, and nodes hear over their sessions whom to trust from then on.
"""

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flota.manager.ca.certificates import create_root, cross_sign
from flota.manager.store import Store, Transaction
from flota.rpc import x509_facts
from flota.rpc.errors import FailedPrecondition, InvalidArgument
from flota.rpc.tokens import JoinToken, root_digest
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Certificate, Cluster, Node, RootCa
from flota.v1.specs_pb2 import CaConfig

_log = structlog.get_logger("ca")


def begin(root: RootCa, asked: CaConfig) -> None:
    """Change `root` so that another one takes over: the one in `asked`, or a new one.

    Raises InvalidArgument (a certificate or key that will not do), FailedPrecondition (one is under way).
    """
    if root.HasField("rotation"):
        raise FailedPrecondition(
            "the root certificate is being rotated already: every node has to renew its certificate first, those that "
            "are down, too (node ls shows them, node rm --force forgets one)"
        )
    if asked.signing_certificate or asked.signing_key:
        certificate, key = _given(asked.signing_certificate, asked.signing_key)
        if certificate == root.certificate:
            raise InvalidArgument("invalid CA certificate: it is the root already")
    else:
        # A name of its own: chains are found by names.
        certificate, key = create_root(f"swarm-ca-{new_id()[:8]}")
    root.rotation.certificate, root.rotation.private_key = certificate, key
    root.rotation.cross_signed = cross_sign(certificate, root.certificate, root.private_key)


def _given(certificate_pem: bytes, key_pem: bytes) -> tuple[bytes, bytes]:
    """A root of a person's own, as we keep it. Raises InvalidArgument."""
    if not (certificate_pem and key_pem):
        raise InvalidArgument("invalid CA: a certificate and its private key are needed, both or neither")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, None)
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, x509.ExtensionNotFound):
        raise InvalidArgument(
            "invalid CA: a PEM certificate of an authority and its unencrypted key are needed"
        ) from None
    if not is_authority:
        raise InvalidArgument("invalid CA certificate: it is not the certificate of an authority")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidArgument("invalid CA key: an elliptic curve key is needed (ECDSA P-256 or larger)")
    if certificate.public_key() != key.public_key():
        raise InvalidArgument("invalid CA key: it is not the key of the certificate")
    if certificate.issuer != certificate.subject:
        raise InvalidArgument("invalid CA certificate: it must be a root, signed by itself")
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), plain


def finish(root: RootCa) -> None:
    """Make the coming root of a rotation the root."""
    coming = root.rotation
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
    behind = [
        node
        for node in tx.nodes
        if not x509_facts.is_issuer(cluster.root_ca.rotation.certificate, node.description.tls_info)
    ]
    for node in behind:
        if not _was_told(node, cluster.root_ca.rotation.cross_signed):
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


def _was_told(node: Node, cross_signed: bytes) -> bool:
    """Whether a node is to renew already, or has a new certificate that it has not told of yet."""
    certificate = node.certificate
    return certificate.state == Certificate.STATE_ROTATE or cross_signed in certificate.certificate_chain
