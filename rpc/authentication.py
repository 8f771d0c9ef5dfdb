"""Who a client certificate is, by who *signed* it and never by what it claims.

Signed by the cluster's root it is a node, with the role in its OU, and so it is when an authority in its chain has
signed it that the root has signed: a root that takes over (manager/ca/rotation.py). Signed by a key derived from a
join token it is a joiner with that token's role, whatever its subject says.
"""

from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from flota.rpc.callers import Caller, Trust
from flota.rpc.errors import PermissionDenied, Unauthenticated
from flota.rpc.identity import role_of_unit
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.types_pb2 import NodeRole


class CertificateAuthenticator:
    """Authenticator over what `trust` says at the time of the call."""

    def __init__(self, trust: Callable[[], Trust]) -> None:
        self._trust = trust
        self._seen_trust: Trust | None = None
        self._cache: dict[bytes, Caller] = {}

    def __call__(self, chain_pem: bytes) -> Caller:
        """Who shows the first of these certificates, with the others as its chain.

        Raises Unauthenticated or, for a removed node, PermissionDenied.
        """
        trust = self._trust()
        if trust is not self._seen_trust:
            self._cache.clear()
            self._seen_trust = trust
        caller = self._cache.get(chain_pem)
        if caller is None:
            caller = self._identify(x509.load_pem_x509_certificates(chain_pem), trust)
            if len(self._cache) > 10_000:
                self._cache.clear()
            self._cache[chain_pem] = caller
        if caller.node_id in trust.removed_nodes:
            raise PermissionDenied(f"node {caller.node_id} was removed from this cluster")
        return caller

    @staticmethod
    def _identify(chain: list[x509.Certificate], trust: Trust) -> Caller:
        certificate = chain[0]
        if _is_of(chain, x509.load_pem_x509_certificates(trust.root_pem)):
            try:
                role = role_of_unit(_attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME))
            except ValueError as error:
                raise Unauthenticated(str(error)) from None
            kind = Kind.CALLER_MANAGER if role == NodeRole.NODE_ROLE_MANAGER else Kind.CALLER_WORKER
            return Caller(kind, _attribute(certificate, NameOID.COMMON_NAME), role)
        for authority_pem, role in trust.joiners:
            if _issued_by(certificate, x509.load_pem_x509_certificate(authority_pem)):
                return Caller(Kind.CALLER_JOINER, "", role)
        raise Unauthenticated("the client certificate is not of this cluster")


def _is_of(chain: list[x509.Certificate], roots: list[x509.Certificate]) -> bool:
    """Whether one of the roots has signed the first certificate, or an authority of the chain that has."""
    authorities = [one for one in chain[1:] if _is_authority(one) and any(_issued_by(one, root) for root in roots)]
    return any(_issued_by(chain[0], issuer) for issuer in (*roots, *authorities))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _attribute(certificate: x509.Certificate, kind: x509.ObjectIdentifier) -> str:
    """The first value of a subject attribute; empty when there is none."""
    found = certificate.subject.get_attributes_for_oid(kind)
    return str(found[0].value) if found else ""
