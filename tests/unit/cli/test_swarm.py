"""`flota swarm`: what it asks of the daemon, and Docker's words for what came of it."""

import json

import pytest

from flota.rpc.errors import FailedPrecondition
from flota.v1.types_pb2 import NodeAvailability
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


def test_init_tells_how_to_join(daemon: Daemon, flota: Flota) -> None:
    done = flota("swarm", "init", "--advertise-addr", "10.0.0.1")
    stored = daemon.cluster.store.cluster
    assert stored is not None
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        f"Swarm initialized: current node ({daemon.cluster.own_id}) is now a manager.\n\n"
        "To add a worker to this swarm, run the following command:\n\n"
        f"    flota swarm join --token {stored.root_ca.join_tokens.worker} 10.0.0.1:2377\n\n"
        "To add a manager to this swarm, run 'flota swarm join-token manager' and follow the instructions.\n\n"
    )
    (request,) = daemon.local.requests
    assert request.advertise_address == "10.0.0.1"
    done = flota("swarm", "init")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "flota: Error response from daemon: this node is already part of a swarm: leave it first (flota swarm leave)\n"
    )


def test_init_passes_every_flag_on(daemon: Daemon, flota: Flota) -> None:
    done = flota(
        "swarm", "init", "--listen-addr", "0.0.0.0", "--data-path-addr", "eth1", "--data-path-port", "5000",
        "--availability", "drain", "--default-addr-pool", "10.20.0.0/16", "--default-addr-pool-mask-length", "26",
        "--task-history-limit", "2", "--cert-expiry", "720h", "--dispatcher-heartbeat", "2s", "--max-snapshots", "1",
        "--snapshot-interval", "500", "--read-lease", "300ms", "--force-new-cluster", "--encrypt-networks",
        "--format", "{{.Address}}",
    )  # fmt: skip
    assert (done.status, done.out, done.err) == (0, "10.0.0.1:2377\n", "")
    (request,) = daemon.local.requests
    assert request.listen_address == "0.0.0.0:2377"
    assert (request.data_path_address, request.data_path_port) == ("eth1", 5000)
    assert request.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
    assert (list(request.address_pools), request.subnet_length) == (["10.20.0.0/16"], 26)
    assert request.force_new_cluster
    assert request.spec.encryption.encrypt_networks
    assert request.spec.orchestration.task_history_retention_limit == 2
    assert request.spec.ca.node_cert_expiry.seconds == 720 * 3600
    assert request.spec.dispatcher.heartbeat_period.seconds == 2
    assert (request.spec.raft.keep_old_snapshots, request.spec.raft.snapshot_interval) == (1, 500)
    assert request.spec.raft.read_lease.ToMilliseconds() == 300


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--advertise-addr", "10.0.0.1:0"], "invalid --advertise-addr '10.0.0.1:0': ADDRESS[:PORT] is needed"),
        (["--advertise-addr", ":2377"], "invalid --advertise-addr ':2377': ADDRESS[:PORT] is needed"),
        (["--advertise-addr", "[::1]:70000"], "invalid --advertise-addr '[::1]:70000': ADDRESS[:PORT] is needed"),
        (["--listen-addr", "0.0.0.0:x"], "invalid --listen-addr '0.0.0.0:x': ADDRESS[:PORT] is needed"),
        (["--data-path-port", "80"], "invalid --data-path-port 80: 1024 to 49151 is needed"),
        (["--default-addr-pool", "10.0.0.1/8"], "invalid --default-addr-pool '10.0.0.1/8': a network such as"),
        (["--default-addr-pool-mask-length", "31"], "invalid --default-addr-pool-mask-length 31: 8 to 29 is needed"),
        (
            ["--default-addr-pool", "10.0.0.0/24", "--default-addr-pool-mask-length", "16"],
            "invalid --default-addr-pool-mask-length 16: the pool 10.0.0.0/24 is smaller than such a subnet",
        ),
        (["--cert-expiry", "1year"], "invalid --cert-expiry '1year': a duration such as"),
        (["--dispatcher-heartbeat", "-5s"], "invalid --dispatcher-heartbeat '-5s': a duration cannot be negative"),
        (["--snapshot-interval", "0"], "invalid --snapshot-interval 0: 1 or more is needed"),
        (["--max-snapshots", "-1"], "invalid --max-snapshots -1: 0 or more is needed"),
    ],
)
def test_init_refuses_before_it_asks(daemon: Daemon, flota: Flota, flags: list[str], said: str) -> None:
    done = flota("swarm", "init", *flags)
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith(f"flota: {said}")
    assert done.err.count("\n") == 1
    assert daemon.local.requests == []


def test_join_and_leave(daemon: Daemon, flota: Flota) -> None:
    token = f"SWMTKN-1-{'a' * 50}-{'b' * 25}"
    done = flota("swarm", "join", "--token", token, "--listen-addr", "0.0.0.0:4000", "10.0.0.1", "10.0.0.2:99")
    assert (done.status, done.out) == (0, "This node joined a swarm as a worker.\n")
    assert list(daemon.local.requests[0].addresses) == ["10.0.0.1:2377", "10.0.0.2:99"]
    assert daemon.local.requests[0].listen_address == "0.0.0.0:4000"
    done = flota("swarm", "join", "--token", "SWMTKN-1-x", "10.0.0.1")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("flota: Error response from daemon: invalid join token: it must look like SWMTKN-1-")
    done = flota("swarm", "join", "10.0.0.1")
    assert (done.status, done.err) == (
        125,
        "flota swarm join: missing option '--token'. See 'flota swarm join --help'.\n",
    )

    assert flota("swarm", "leave", "--force").out == "Node left the swarm.\n"
    assert daemon.local.requests[-1].force
    daemon.local.refusal = FailedPrecondition("you are the last manager: leave with --force")
    done = flota("swarm", "leave")
    assert (done.status, done.out) == (1, "")
    assert done.err == "flota: Error response from daemon: you are the last manager: leave with --force\n"


def test_join_tokens_are_shown_and_rotated(swarm: Daemon, flota: Flota) -> None:
    def tokens() -> tuple[str, str]:
        stored = swarm.cluster.store.cluster
        assert stored is not None
        return stored.root_ca.join_tokens.worker, stored.root_ca.join_tokens.manager

    before = tokens()
    assert flota("swarm", "join-token", "-q", "worker").out == f"{before[0]}\n"
    assert flota("swarm", "join-token", "manager").out == (
        "To add a manager to this swarm, run the following command:\n\n"
        f"    flota swarm join --token {before[1]} 10.0.0.1:2377\n\n"
    )
    done = flota("swarm", "join-token", "--rotate", "worker")
    after = tokens()
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert done.out == (
        "Successfully rotated worker join token.\n\n"
        "To add a worker to this swarm, run the following command:\n\n"
        f"    flota swarm join --token {after[0]} 10.0.0.1:2377\n\n"
    )
    assert json.loads(flota("swarm", "join-token", "worker", "--format", "json").out) == {
        "Role": "worker", "Token": after[0], "Addresses": ["10.0.0.1:2377"],
    }  # fmt: skip


def test_update_changes_only_what_is_named(swarm: Daemon, flota: Flota) -> None:
    assert flota("swarm", "update", "--task-history-limit", "2").out == "Swarm updated.\n"
    stored = swarm.cluster.store.cluster
    assert stored is not None
    assert stored.spec.orchestration.task_history_retention_limit == 2
    assert stored.spec.dispatcher.heartbeat_period.seconds == 1
    assert stored.spec.raft.snapshot_interval == 10_000
    done = flota("swarm", "update", "--cert-expiry", "30m")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "flota: Error response from daemon: invalid certificate expiry '1800s': at least 1 hour is needed\n"
    )
    done = flota("swarm", "update")
    assert done.status == 125
    assert done.err.startswith("flota: nothing to change: give one of --task-history-limit, ")


def test_the_unlock_key_is_shown_changed_and_forgotten(swarm: Daemon, flota: Flota) -> None:
    done = flota("swarm", "unlock-key")
    assert (done.status, done.err) == (
        1,
        "flota: no unlock key is set: autolock is off (swarm update --autolock)\n",
    )
    done = flota("swarm", "unlock-key", "--rotate")
    assert "there is no unlock key to rotate: autolock is off" in done.err
    said = flota("swarm", "update", "--autolock").out
    key = flota("swarm", "unlock-key", "-q").out.strip()
    assert key.startswith("SWMKEY-1-")
    assert said.startswith(
        "Swarm updated.\nTo unlock a swarm manager after it restarts, run the `flota swarm unlock`\n"
    )
    assert f"\n    {key}\n" in said
    changed = flota("swarm", "unlock-key", "--rotate")
    assert changed.out.startswith("Successfully rotated manager unlock key.\n\nTo unlock")
    newest = flota("swarm", "unlock-key", "-q").out.strip()
    assert newest != key
    assert newest in changed.out
    # What else is changed leaves it alone.
    assert flota("swarm", "update", "--task-history-limit", "3").out == "Swarm updated.\n"
    assert flota("swarm", "unlock-key", "-q").out.strip() == newest
    assert flota("swarm", "update", "--autolock=false").out == "Swarm updated.\n"
    assert flota("swarm", "unlock-key").status == 1


def test_ca_prints_the_root_certificate(swarm: Daemon, flota: Flota) -> None:
    stored = swarm.cluster.store.cluster
    assert stored is not None
    assert flota("swarm", "ca").out == stored.root_ca.certificate.decode()
