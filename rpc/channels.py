"""Client channels: to this machine's daemon, to a manager as a node, to a manager as a joiner.

Imports nothing but gRPC, so that a command line that only asks the local daemon starts quickly.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
import grpc.aio

if TYPE_CHECKING:
    from flota.rpc.identity import Identity

DEFAULT_HOST = "unix:///run/flota/flota.sock"
MANAGER_NAME = "swarm-manager"
MAX_MESSAGE_BYTES = 64 << 20

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]
# Despite its name, what one attempt to connect is given, in milliseconds: to another machine, which may be gone, enough
# for a TLS handshake with a busy one; within this one nearly any time, for who listens here lives.
_ATTEMPT = "grpc.min_reconnect_backoff_ms"
_FAR, _HERE = (_ATTEMPT, 3_000), (_ATTEMPT, 30_000)
# A machine that lost power is noticed within about five seconds, and a busy one is not taken for dead. (A process of
# this machine needs no such thing: the kernel tells of its end.)
KEEPALIVE: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 1500),
    ("grpc.keepalive_timeout_ms", 3500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def local_channel(
    host: str = DEFAULT_HOST, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()
) -> grpc.aio.Channel:
    """A channel to a daemon or process on this machine: unix:///path."""
    options = [*_OPTIONS, _HERE, ("grpc.default_authority", "localhost")]
    return grpc.aio.insecure_channel(host, options=options, interceptors=interceptors or None)


def node_channel(identity: "Identity", address: str) -> grpc.aio.Channel:
    """A channel to a manager (host:port) as this node. Only a manager's certificate is accepted there."""
    identity.reload()
    credentials = grpc.ssl_channel_credentials(identity.root_pem, identity.key_pem, identity.certificate_pem)
    return _secure(address, credentials)


def join_channel(root_pem: bytes, certificate_pem: bytes, key_pem: bytes, address: str) -> grpc.aio.Channel:
    """A channel to a manager as a joiner, with a certificate made from a token (tokens.joiner_certificate)."""
    return _secure(address, grpc.ssl_channel_credentials(root_pem, key_pem, certificate_pem))


def _secure(address: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(
        address, credentials, options=[*_OPTIONS, _FAR, *KEEPALIVE, ("grpc.ssl_target_name_override", MANAGER_NAME)]
    )
