"""The joiner's side of the CA: from a token to an identity.

First a bare TLS handshake shows whether this is the token's cluster (the digest of the root the manager presents) and
whether the manager knows the token (it goes on after seeing our certificate, or it hangs up). Only then do we ask for
a certificate. Each failure has its own sentence: unreachable, another cluster, token refused.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from OpenSSL import SSL

from flota.manager.ca.certificates import create_request
from flota.rpc.channels import MANAGER_NAME, join_channel, node_channel
from flota.rpc.errors import FailedPrecondition, FlotaError, PermissionDenied, Unavailable, error_from
from flota.rpc.identity import Identity
from flota.rpc.tokens import JoinToken, joiner_certificate, root_digest
from flota.v1.ca_pb2 import IssueNodeCertificateRequest, IssueNodeCertificateResponse
from flota.v1.ca_pb2_grpc import NodeCaStub
from flota.v1.types_pb2 import NodeAvailability, NodeRole

if TYPE_CHECKING:
    from flota.v1.ca_pb2_grpc import NodeCaAsyncStub

DEFAULT_PORT = 2377
_PATIENCE = 5.0
_ISSUE_PATIENCE = 15.0
T = TypeVar("T")


@dataclass(frozen=True)
class IssuedIdentity:
    """What a node gets from the CA: all it needs to write with `Identity.store`."""

    node_id: str
    cluster_id: str
    role: "NodeRole.ValueType"
    certificate_pem: bytes
    key_pem: bytes
    root_pem: bytes
    # UDP port of the cluster's networks; 0 for the first node, which decides it.
    data_path_port: int = 0


def with_port(address: str) -> str:
    """host[:port] with the port filled in; IPv6 hosts stand in brackets."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and not (":" in host and not host.startswith("[")):
        return address
    if ":" in address and not address.startswith("["):
        return f"[{address}]:{DEFAULT_PORT}"
    return f"{address}:{DEFAULT_PORT}"


def _with_patience(connection: SSL.Connection, raw: socket.socket, step: Callable[[], T], deadline: float) -> T:
    """Run a non-blocking TLS step until it is done. Raises TimeoutError."""
    while True:
        try:
            return step()
        except SSL.WantReadError:
            waits: tuple[list[socket.socket], list[socket.socket]] = ([raw], [])
        except SSL.WantWriteError:
            waits = ([], [raw])
        left = deadline - time.monotonic()
        if left <= 0 or not any(select.select(*waits, [], left)):
            raise TimeoutError("no answer")


def _private_key(key_pem: bytes) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(key_pem, None)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key


def probe(address: str, token: JoinToken, certificate_pem: bytes, key_pem: bytes) -> bytes:
    """Find out whether the manager at `address` (host:port) is of the token's cluster and takes the token.

    Gives back the PEM of the cluster's root. Blocks for at most about five seconds: run it in a thread. Raises
    Unavailable (not reachable), FailedPrecondition (another cluster), PermissionDenied (token refused).
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _PATIENCE
    try:
        raw = socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE)
    except OSError as error:
        raise Unavailable(f"cannot reach a manager at {address}: {error.strerror or error}") from None
    with raw:
        raw.setblocking(False)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        context.set_alpn_protos([b"h2"])
        context.use_certificate(load_pem_x509_certificate(certificate_pem))
        context.use_privatekey(_private_key(key_pem))
        connection = SSL.Connection(context, raw)
        connection.set_tlsext_host_name(MANAGER_NAME.encode())
        connection.set_connect_state()
        try:
            _with_patience(connection, raw, connection.do_handshake, deadline)
        except (SSL.Error, OSError) as error:
            raise Unavailable(f"{address} does not speak TLS like a manager: {error or type(error).__name__}") from None
        chain = [x.to_cryptography().public_bytes(Encoding.PEM) for x in connection.get_peer_cert_chain() or []]
        root = next((pem for pem in chain if root_digest(pem) == token.digest), None)
        if root is None:
            raise FailedPrecondition(
                f"the manager at {address} is of another cluster than the join token "
                "(the digest of its root certificate differs): is the token of this cluster?"
            )
        try:
            _with_patience(connection, raw, lambda: connection.recv(1), deadline)
        except (SSL.Error, OSError):
            raise PermissionDenied(
                f"the manager at {address} refused the join token: it is wrong or was rotated; "
                "`flota swarm join-token worker` (or manager) on a manager prints the valid one"
            ) from None
    return root


async def request_certificate(
    token_text: str,
    addresses: Sequence[str],
    availability: "NodeAvailability.ValueType" = NodeAvailability.NODE_AVAILABILITY_ACTIVE,
) -> IssuedIdentity:
    """Join: turn a token into an identity through the first manager that can be reached.

    Raises InvalidArgument (malformed token), and what `probe` raises; when several addresses were given, the error of
    the last one that could be reached.
    """
    token = JoinToken.parse(token_text)
    certificate_pem, key_pem = joiner_certificate(token)
    failure: FlotaError = Unavailable("no manager's address was given")
    for address in map(with_port, addresses):
        try:
            root_pem = await asyncio.to_thread(probe, address, token, certificate_pem, key_pem)
        except Unavailable as error:
            failure = error
            continue
        async with join_channel(root_pem, certificate_pem, key_pem, address) as channel:
            # It answered just now. A busy manager may hang up in the middle of a handshake: then connect again.
            return await _issue(NodeCaStub(channel), root_pem, availability, patient=True)
    raise failure


async def renew_certificate(identity: Identity, managers: Sequence[str]) -> IssuedIdentity:
    """A new certificate for a node, with the role that the store now has for it. Raises Unavailable."""
    failure: FlotaError = Unavailable("no manager is known")
    for address in managers:
        async with node_channel(identity, address) as channel:
            try:
                return await _issue(NodeCaStub(channel), identity.root_pem, NodeAvailability.NODE_AVAILABILITY_ACTIVE)
            except FlotaError as error:
                failure = error
    raise failure


async def _issue(
    stub: "NodeCaAsyncStub", root_pem: bytes, availability: "NodeAvailability.ValueType", *, patient: bool = False
) -> IssuedIdentity:
    request_pem, key_pem = create_request()
    try:
        answer: IssueNodeCertificateResponse = await stub.IssueNodeCertificate(
            IssueNodeCertificateRequest(csr=request_pem, availability=availability),
            timeout=_ISSUE_PATIENCE if patient else _PATIENCE,
            wait_for_ready=patient,
        )
    except grpc.RpcError as error:
        raise error_from(error) from None
    return IssuedIdentity(
        node_id=answer.node_id,
        cluster_id=answer.cluster_id,
        role=answer.role,
        certificate_pem=answer.certificate.certificate_chain,
        key_pem=key_pem,
        root_pem=root_pem,
        data_path_port=answer.data_path_port,
    )
