"""Who calls, as the transport proves it.

On a unix socket the kernel's file permissions have decided: CALLER_LOCAL. Between machines the client certificate
decides (authentication.py).
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from flota.rpc.errors import Unauthenticated
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
    """Tells who a peer is from its certificate and the chain it shows with it (PEM)."""

    def __call__(self, chain_pem: bytes) -> Caller: ...


@dataclass(frozen=True)
class Trust:
    """What a manager trusts at the moment. `root_pem` may be several certificates.

    `joiners` maps the PEM of a join authority to its token's role.
    """

    root_pem: bytes
    joiners: tuple[tuple[bytes, "NodeRole.ValueType"], ...] = ()
    removed_nodes: frozenset[str] = frozenset()
