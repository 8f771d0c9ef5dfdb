"""Who calls, as the transport proves it.

On a unix socket the kernel's file permissions have decided: CALLER_LOCAL. Between machines the client certificate
decides, by who *signed* it and never by what it claims: signed by the cluster's root it is a node, with the role in
its OU; signed by a key derived from a join token it is a joiner with that token's role, whatever its subject says.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from flota.rpc.errors import PermissionDenied, Unauthenticated
from flota.rpc.identity import attribute, role_of
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.types_pb2 import NodeRole


@dataclass(frozen=True)
class Caller:
    """Whoever makes a call. `node_id` is empty for local callers and joiners; `role` is a joiner's token's role.

    `address` is where the call came from (no port), as the manager saw it that it reached first; empty for sockets.
    """

    kind: "Kind.ValueType"
    node_id: str = ""
    role: "NodeRole.ValueType" = NodeRole.NODE_ROLE_WORKER
    address: str = ""

    def to_metadata(self) -> str:
        """For a manager that passes a call on to the leader."""
        return f"{int(self.kind)} {int(self.role)} {self.node_id} {self.address}"

    @classmethod
    def from_metadata(cls, text: str) -> "Caller":
        """Read what `to_metadata` wrote. Raises Unauthenticated."""
        try:
            kind, role, node_id, *rest = text.split(" ")
            return cls(Kind.ValueType(int(kind)), node_id, NodeRole.ValueType(int(role)), "".join(rest))
        except ValueError:
            raise Unauthenticated(f"malformed forwarded caller {text!r}") from None


LOCAL = Caller(Kind.CALLER_LOCAL)
_current: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Who makes the call that this handler answers."""
    return _current.get()


def set_caller(caller: Caller) -> None:
    """Used by the interceptor before it runs a handler."""
    _current.set(caller)


def host_of_peer(peer: str) -> str:
    """The address in gRPC's name for the other end ("ipv4:10.0.0.1:4711", "ipv6:%5B::1%5D:4711"); empty for sockets."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return unquote(rest).rpartition(":")[0].strip("[]")


class Authenticator(Protocol):
    """Tells who a peer is from its certificate (PEM)."""

    def __call__(self, certificate_pem: bytes) -> Caller: ...


@dataclass(frozen=True)
class Trust:
    """What a manager trusts at the moment. `joiners` maps the PEM of a join authority to its token's role."""

    root_pem: bytes
    joiners: tuple[tuple[bytes, "NodeRole.ValueType"], ...] = ()
    removed_nodes: frozenset[str] = frozenset()


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
                role = role_of(certificate)
            except ValueError as error:
                raise Unauthenticated(str(error)) from None
            kind = Kind.CALLER_MANAGER if role == NodeRole.NODE_ROLE_MANAGER else Kind.CALLER_WORKER
            return Caller(kind, attribute(certificate, NameOID.COMMON_NAME), role)
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
