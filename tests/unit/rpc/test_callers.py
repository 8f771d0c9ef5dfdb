"""Who calls, in words that one manager hands to another."""

import pytest

from flota.rpc.callers import LOCAL, Caller, host_of_peer
from flota.rpc.errors import Unauthenticated
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.types_pb2 import NodeRole


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1"),
        ("ipv6:%5Bfe80::1%5D:4711", "fe80::1"),
        ("ipv6:[::1]:4711", "::1"),
        ("unix:", ""),
        ("unix:/run/flota.sock", ""),
    ],
)
def test_the_other_ends_address(peer: str, host: str) -> None:
    assert host_of_peer(peer) == host


@pytest.mark.parametrize(
    "caller", [LOCAL, Caller(Kind.CALLER_WORKER, "w1", NodeRole.NODE_ROLE_WORKER, "10.0.0.1"), Caller(1, "m1")]
)
def test_a_caller_is_passed_on_whole(caller: Caller) -> None:
    assert Caller.from_metadata(caller.to_metadata()) == caller


def test_a_caller_without_an_address_is_understood_and_nonsense_is_not() -> None:
    assert Caller.from_metadata("2 0 w1") == Caller(Kind.CALLER_WORKER, "w1")
    with pytest.raises(Unauthenticated, match="malformed forwarded caller 'w1'"):
        Caller.from_metadata("w1")
