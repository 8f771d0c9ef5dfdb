"""What an init may ask for, when a manager may go, when a certificate is renewed, what a service manager hears."""

import datetime
import os
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from cryptography import x509

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.node.entering import check_init
from flota.node.following import renewal_time
from flota.node.leaving import check_departure
from flota.node.notify import READY, Notifier
from flota.rpc.errors import FlotaError
from flota.v1.local_pb2 import InitRequest
from flota.v1.objects_pb2 import ManagerStatus, Node
from flota.v1.types_pb2 import NodeRole


def refused(change: Callable[[InitRequest], object]) -> str:
    request = InitRequest()
    change(request)
    with pytest.raises(FlotaError) as caught:
        check_init(request)
    return str(caught.value)


def test_an_init_is_checked_before_anything_is_made() -> None:
    check_init(InitRequest())
    check_init(
        InitRequest(
            data_path_port=7789, subnet_length=26, address_pools=["10.20.0.0/16", "10.30.0.0/16"], availability=2
        )
    )
    assert refused(lambda r: setattr(r, "data_path_port", 80)) == (
        "invalid data path port 80: 1024 to 49151 is allowed, or 0 for 4789"
    )
    assert refused(lambda r: setattr(r, "subnet_length", 30)).startswith("invalid subnet length 30: 8 to 29 is allowed")
    assert refused(lambda r: setattr(r, "availability", 7)) == (
        "invalid availability 7: allowed are active, pause and drain"
    )
    assert refused(lambda r: r.address_pools.append("10.0.0.1/8")) == (
        "invalid address pool '10.0.0.1/8': a network such as 10.20.0.0/16 or fd00:20::/48 is needed"
    )
    check_init(InitRequest(address_pools=["fd00:20::/48"]))
    assert refused(lambda r: r.address_pools.append("fd00:20::/65")).endswith("it is smaller than one subnet of /64")
    assert refused(lambda r: r.address_pools.append("10.0.0.0/25")).endswith("it is smaller than one subnet of /24")
    assert refused(lambda r: r.address_pools.extend(["10.0.0.0/8", "10.9.0.0/16"])) == (
        "invalid address pool '10.9.0.0/16': it overlaps the pool 10.0.0.0/8"
    )
    assert refused(lambda r: r.spec.ca.node_cert_expiry.FromSeconds(60)).startswith("invalid certificate expiry '60s'")


def manager(id: str, reachable: bool = True) -> Node:
    node = Node(id=id)
    node.manager_status.raft_id = 1
    node.manager_status.reachability = (
        ManagerStatus.REACHABILITY_REACHABLE if reachable else ManagerStatus.REACHABILITY_UNREACHABLE
    )
    return node


def test_a_manager_may_go_when_the_others_can_decide() -> None:
    workers = [Node(id="w1"), Node(id="w2")]
    assert check_departure("m1", [manager("m1"), manager("m2"), *workers]) == ""
    assert check_departure("m1", [manager("m1"), manager("m2"), manager("m3"), *workers]) == ""
    # What the one that goes can be reached like does not matter.
    assert check_departure("m1", [manager("m1", False), manager("m2"), manager("m3")]) == ""
    assert check_departure("m1", [manager("m1"), manager("m2"), manager("m3"), manager("m4", False)]) == ""


def test_the_last_manager_and_one_that_is_needed_may_not() -> None:
    last = check_departure("m1", [manager("m1"), Node(id="w1")])
    assert last == (
        "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager "
        "erases all current state of a swarm. Use `--force` to ignore this message."
    )
    needed = check_departure("m1", [manager("m1"), manager("m2"), manager("m3", False)])
    assert "Removing this node leaves 1 managers out of 3. Without a Raft quorum your swarm will be inacc" in needed
    assert needed.endswith("reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.")


def test_a_certificate_is_renewed_between_half_and_four_fifths_of_its_life() -> None:
    root_pem, root_key = create_root()
    csr, _ = create_request()
    life = datetime.timedelta(days=10)
    chain = Signer(root_pem, root_key).sign(csr, "n1", NodeRole.NODE_ROLE_WORKER, "c1", life)
    certificate = x509.load_pem_x509_certificate(chain)
    begin = certificate.not_valid_after_utc - life
    parts = [(renewal_time(certificate, Random(seed)) - begin) / life for seed in range(200)]
    assert 0.5 <= min(parts) < 0.55
    assert 0.75 < max(parts) <= 0.8


def test_a_service_manager_hears_of_it_when_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().tell(READY)
    for address in (str(tmp_path / "notify"), f"@flota-test-{tmp_path.name}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address.replace("@", "\0", 1))
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            notifier = Notifier()
            assert "NOTIFY_SOCKET" not in os.environ
            notifier.tell(READY)
            manager.settimeout(5)
            assert manager.recv(100) == b"READY=1"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    Notifier().tell(READY)
