"""Who a client certificate is, by who *signed* it and never by what it claims.

Signed by the cluster's root it is a node, with the role in its OU; signed by a key derived from a join token it is a
joiner with that token's role, whatever its subject says.
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

    def __call__(self, certificate_pem: bytes) -> Caller:
        """Raises Unauthenticated or, for a removed node, PermissionDenied."""
        trust = self._trust()
        if trust is not self._seen_trust:
            self._cache.clear()
            self._seen_trust = trust
        caller = self._cache.get(certificate_pem)
        if caller is None:
            caller = self._identify(x509.load_pem_x509_certificate(certificate_pem), trust)
            if len(self._cache) > 10_000:
                self._cache.clear()
            self._cache[certificate_pem] = caller
        if caller.node_id in trust.removed_nodes:
            raise PermissionDenied(f"node {caller.node_id} was removed from this cluster")
        return caller

    @staticmethod
    def _identify(certificate: x509.Certificate, trust: Trust) -> Caller:
        if _signed_by(certificate, trust.root_pem):
            try:
                role = role_of_unit(_attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME))
            except ValueError as error:
                raise Unauthenticated(str(error)) from None
            kind = Kind.CALLER_MANAGER if role == NodeRole.NODE_ROLE_MANAGER else Kind.CALLER_WORKER
            return Caller(kind, _attribute(certificate, NameOID.COMMON_NAME), role)
        for authority_pem, role in trust.joiners:
            if _signed_by(certificate, authority_pem):
                return Caller(Kind.CALLER_JOINER, "", role)
        raise Unauthenticated("the client certificate is not of this cluster")


def _signed_by(certificate: x509.Certificate, issuer_pem: bytes) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(issuer_pem))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _attribute(certificate: x509.Certificate, kind: x509.ObjectIdentifier) -> str:
    """The first value of a subject attribute; empty when there is none."""
    found = certificate.subject.get_attributes_for_oid(kind)
    return str(found[0].value) if found else ""
