"""`flota network`: from the flags to the spec, and back to tables."""

import io
import json

import pytest

from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


def test_create_prints_the_id_and_stores_what_was_asked(swarm: Daemon, flota: Flota) -> None:
    done = flota(
        "network", "create", "--subnet", "10.9.0.0/24", "--subnet", "10.10.0.0/24", "--gateway", "10.10.0.254",
        "--ip-range", "10.9.0.128/25", "--aux-address", "router=10.9.0.2", "--label", "team=shop",
        "--opt", "com.docker.network.driver.mtu=1400", "--internal", "backend",
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    stored = swarm.cluster.store.networks.get(done.out.strip())
    assert stored is not None
    first, second = stored.spec.ipam
    assert (first.subnet, first.range, first.gateway) == ("10.9.0.0/24", "10.9.0.128/25", "")
    assert dict(first.reserved) == {"router": "10.9.0.2"}
    assert (second.subnet, second.range, second.gateway) == ("10.10.0.0/24", "", "10.10.0.254")
    assert stored.spec.internal
    (shape,) = json.loads(flota("network", "inspect", "backend").out)
    assert shape["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"router": "10.9.0.2"}
    assert shape["Options"] == {"com.docker.network.driver.mtu": "1400"}


def test_ls_and_rm(swarm: Daemon, flota: Flota) -> None:
    made = flota("network", "create", "--label", "com.example.team=shop", "backend").out.strip()
    networks = {network.spec.annotations.name: network.id for network in swarm.cluster.store.networks}
    assert flota("network", "ls").out == (
        "NETWORK ID     NAME      DRIVER    SCOPE     USE\n"
        f"{made[:12]}   backend   overlay   swarm\n"
        f"{networks['flota'][:12]}   flota     overlay   swarm\n"
        f"{networks['ingress'][:12]}   ingress   overlay   swarm\n"
    )
    assert flota("network", "ls", "-q", "--no-trunc", "--filter", "label=com.example.team=shop").lines == [made]
    assert flota("network", "ls", "--filter", "type=builtin", "--format", "{{.Name}}").lines == ["ingress"]
    assert flota("network", "ls", "--filter", "driver=bridge", "-q").out == ""
    shown = flota(
        "network", "ls", "--filter", "name=back", "--format", 'table {{.Name}}\t{{.Label "com.example.team"}}'
    )
    assert shown.lines == ["NAME      TEAM", "backend   shop"]
    done = flota("network", "rm", "backend", "backend", "flota")
    assert (done.status, done.out) == (1, "backend\n")
    assert done.err == (
        "flota: no such network: backend\n"
        "flota: Error response from daemon: network flota is the default network: it cannot be removed\n"
    )


def test_the_ingress_network_goes_after_a_question(
    swarm: Daemon, flota: Flota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    done = flota("network", "rm", "ingress")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(
        "WARNING! ingress is the ingress network: without it no port can be published on every node, until another "
        "one is made (flota network create --ingress).\nAre you sure you want to continue? [y/N]: "
    )
    assert done.err.endswith("flota: network ingress stays\n")
    flota("service", "create", "-d", "--name", "web", "-p", "80", "busybox")
    done = flota("network", "rm", "--force", "ingress")
    assert done.err == "flota: Error response from daemon: network ingress is in use by service web\n"
    flota("service", "rm", "web")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert flota("network", "rm", "ingress").out == "ingress\n"
    done = flota("service", "create", "-d", "--name", "web", "-p", "8080:80", "busybox")
    assert done.status == 1
    assert done.err == (
        "flota: Error response from daemon: port 8080 is published on every node, and the swarm has no ingress network "
        "for that: make one with network create --ingress, or publish with mode=host\n"
    )
    made = flota("network", "create", "--ingress", "--subnet", "10.11.0.0/24", "mesh").out.strip()
    assert swarm.cluster.store.networks.get(made).spec.ingress  # type: ignore[union-attr]
    assert flota("service", "create", "-d", "--name", "web", "-p", "8080:80", "busybox").status == 0
    done = flota("network", "create", "--ingress", "another")
    assert done.err == (
        "flota: Error response from daemon: network mesh is the ingress network already, and there can be only one: "
        "remove it first\n"
    )


def test_who_is_on_a_network(working: Daemon, flota: Flota) -> None:
    flota("network", "create", "backend")
    flota("service", "create", "-q", "--name", "web", "--replicas", "2", "--network", "backend", "busybox")
    flota("service", "create", "-d", "--name", "other", "busybox")
    (shape,) = json.loads(flota("network", "inspect", "--verbose", "backend").out)
    assert list(shape["Services"]) == ["web"]
    tasks = shape["Services"]["web"]["Tasks"]
    assert sorted(task["Name"].rpartition(".")[0] for task in tasks) == ["web.1", "web.2"]
    assert all(task["EndpointIP"].count(".") == 3 for task in tasks)


def test_a_network_that_need_not_be_there(swarm: Daemon, flota: Flota) -> None:
    assert flota("network", "rm", "--force", "nope").status == 0
    assert flota("network", "rm", "nope").status == 1


def test_a_network_in_use_stays(swarm: Daemon, flota: Flota) -> None:
    flota("network", "create", "backend")
    flota("service", "create", "-d", "--name", "web", "--network", "backend", "busybox")
    done = flota("network", "rm", "backend")
    assert (done.status, done.out) == (1, "")
    assert done.err == "flota: Error response from daemon: network backend is in use by service web\n"


def test_prune_leaves_what_is_in_use(swarm: Daemon, flota: Flota) -> None:
    for name in ("back10", "back9", "front", "kept"):
        flota("network", "create", *(["--label", "gone"] if "back" in name else []), name)
    flota("service", "create", "-d", "--name", "web", "--network", "front", "--endpoint-mode", "dnsrr", "busybox")
    done = flota("network", "prune", "--force", "--filter", "label=gone")
    assert (done.status, done.err, done.lines) == (0, "", ["Deleted Networks:", "back9", "back10"])
    assert flota("network", "prune", "--force", "--filter", "until=1h").lines == []
    assert flota("network", "ls", "--format", "{{.Name}}").lines == ["flota", "front", "ingress", "kept"]
    assert flota("network", "prune", "--force").lines == ["Deleted Networks:", "kept"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--subnet", "10.9.0.1/24"], "invalid --subnet '10.9.0.1/24': a network such as 10.9.0.0/24 is needed"),
        (["--gateway", "10.9.0.1"], "invalid --gateway '10.9.0.1': it must lie within a --subnet (none is given)"),
        (["--subnet", "10.9.0.0/24", "--gateway", "10.8.0.1"], "invalid --gateway '10.8.0.1': it must lie within"),
        (["--subnet", "10.9.0.0/24", "--gateway", "x"], "invalid --gateway 'x': an address such as 10.9.0.1 is"),
        (["--subnet", "10.9.0.0/24", "--ip-range", "10.9.1.0/25"], "invalid --ip-range '10.9.1.0/25': it must lie"),
        (["--subnet", "10.9.0.0/24", "--aux-address", "10.9.0.2"], "invalid --aux-address '10.9.0.2': NAME=ADDRESS"),
        (
            ["--subnet", "10.9.0.0/24", "--gateway", "10.9.0.1", "--gateway", "10.9.0.2"],
            "invalid --gateway '10.9.0.2': the subnet 10.9.0.0/24 has 10.9.0.1 already",
        ),
        (["--label", "=x"], "invalid --label '=x': KEY=VALUE is needed"),
        (["--opt", "=x"], "invalid --opt '=x': KEY=VALUE is needed"),
    ],
)
def test_bad_flags_are_one_line(swarm: Daemon, flota: Flota, flags: list[str], said: str) -> None:
    done = flota("network", "create", *flags, "backend")
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith(f"flota: {said}")
    assert done.err.count("\n") == 1


def test_what_the_daemon_does_not_take_is_told_in_its_words(swarm: Daemon, flota: Flota) -> None:
    flota("network", "create", "--subnet", "10.9.0.0/24", "backend")
    done = flota("network", "create", "--subnet", "10.9.0.0/25", "other")
    assert done.err == (
        "flota: Error response from daemon: invalid subnet '10.9.0.0/25': it overlaps 10.9.0.0/24 of network backend\n"
    )
    assert flota("network", "create", "--driver", "macvlan", "x").err == (
        "flota: Error response from daemon: network driver 'macvlan' is not supported: only overlay is\n"
    )
