"""What `docker run` asks for, as a container without a service."""

from typing import Any

import pytest

from flota.gateway.translation.fields import Fields
from flota.gateway.translation.plain import attachment, gateway_priority, plain_container, update_of
from flota.rpc.errors import FlotaError, InvalidArgument, Unsupported
from flota.v1.containers_pb2 import PlainContainer
from flota.v1.types_pb2 import Mount, RestartPolicy


def container(host: dict[str, Any] | None = None, image: dict[str, Any] | None = None, **config: Any) -> PlainContainer:
    return plain_container("c", Fields({"Image": "busybox", "HostConfig": host or {}, **config}), image or {})


def test_what_the_image_says_is_filled_in() -> None:
    image = {"Entrypoint": ["/e"], "Cmd": ["a"], "Env": ["X=1"], "User": "u", "WorkingDir": "/w", "Labels": {"l": "1"}}
    spec = container(image=image, Env=["X=2"]).task.spec.container
    assert (list(spec.command), list(spec.args), list(spec.env)) == (["/e"], ["a"], ["X=1", "X=2"])
    assert (spec.user, spec.dir, dict(spec.labels)) == ("u", "/w", {"l": "1"})
    own = container(image=image, Entrypoint=["/mine"]).task.spec.container
    assert (list(own.command), list(own.args)) == (["/mine"], []), "one's own entrypoint takes nothing of the command"
    none = container(image=image, Entrypoint=[""], Cmd=["b"]).task.spec.container
    assert (list(none.command), list(none.args)) == ([], ["b"])


def test_binds_ports_and_networks() -> None:
    ports = {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "53/udp": [{"HostIp": "0.0.0.0", "HostPort": ""}]}
    made = container({"Binds": ["/a:/b:ro", "data:/d"], "PortBindings": ports, "NetworkMode": "lan"})
    mounts = [(one.type, one.source, one.target, one.read_only) for one in made.task.spec.container.mounts]
    assert mounts == [(Mount.TYPE_BIND, "/a", "/b", True), (Mount.TYPE_VOLUME, "data", "/d", False)]
    assert [(one.published_port, one.target_port) for one in made.task.endpoint.ports] == [(8080, 80), (0, 53)]
    assert [one.target for one in made.task.spec.networks] == ["lan"]
    assert [one.target for one in container().task.spec.networks] == ["bridge"]


def test_shared_memory_has_the_size_that_is_asked_for() -> None:
    [mount] = container({"ShmSize": 1 << 20}).task.spec.container.mounts
    assert (mount.target, mount.tmpfs_size_bytes, mount.tmpfs_mode) == ("/dev/shm", 1 << 20, 0o1777)
    own = container({"ShmSize": 1 << 20, "Tmpfs": {"/dev/shm": "size=2m"}}).task.spec.container.mounts
    assert [mount.tmpfs_size_bytes for mount in own] == [2 << 20]
    assert not container({"ShmSize": 0}).task.spec.container.mounts


def test_restart_policies() -> None:
    made = container({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}).task.spec.restart
    assert (made.condition, made.max_attempts) == (RestartPolicy.CONDITION_ON_FAILURE, 3)
    assert container().task.spec.restart.condition == RestartPolicy.CONDITION_NONE
    assert container({"RestartPolicy": {"Name": "unless-stopped"}}).unless_stopped


@pytest.mark.parametrize(
    ("host", "kind", "said"),
    [
        ({"Privileged": True}, Unsupported, "HostConfig.Privileged"),
        ({"BlkioWeight": 500}, Unsupported, "HostConfig.BlkioWeight"),
        ({"NetworkMode": "container:x"}, Unsupported, "HostConfig.NetworkMode"),
        ({"PortBindings": {"80/tcp": [{"HostIp": "eth0", "HostPort": "1"}]}}, InvalidArgument, "host address"),
        ({"PortBindings": {"80/tcp": [{"HostPort": "70000"}]}}, InvalidArgument, "a port from 0 to 65535"),
        ({"Binds": ["/a"]}, InvalidArgument, "SOURCE:TARGET"),
        ({"Binds": ["/a:/b:odd"]}, InvalidArgument, "no option 'odd'"),
        ({"RestartPolicy": {"Name": "perhaps"}}, InvalidArgument, "unknown policy 'perhaps'"),
        ({"AutoRemove": True, "RestartPolicy": {"Name": "always"}}, InvalidArgument, "AutoRemove"),
        ({"ExtraHosts": ["odd"]}, InvalidArgument, "NAME:ADDRESS"),
    ],
)
def test_what_cannot_be_is_refused(host: dict[str, Any], kind: type[FlotaError], said: str) -> None:
    with pytest.raises(kind, match=said):
        container(host)


def test_an_update_changes_what_it_says_and_leaves_the_rest() -> None:
    plain = PlainContainer()
    plain.task.id = "c1"
    plain.task.spec.resources.limits.memory_bytes = 64 << 20
    plain.task.spec.resources.limits.nano_cpus = 500_000_000
    request = update_of(plain, Fields({"Memory": 0, "CpuQuota": 200_000, "CpuPeriod": 100_000, "PidsLimit": 50}))
    assert request.resources.limits.memory_bytes == 64 << 20
    assert request.resources.limits.nano_cpus == 2_000_000_000
    assert request.resources.pids_limit == 50
    assert not request.HasField("restart")
    request = update_of(plain, Fields({"PidsLimit": -1, "RestartPolicy": {"Name": "unless-stopped"}}))
    assert (request.resources.pids_limit, request.unless_stopped) == (0, True)
    request = update_of(plain, Fields({"CpuShares": 512, "CpusetCpus": "0"}))
    assert (request.resources.cpu_shares, request.resources.cpuset_cpus) == (512, "0")
    with pytest.raises(Unsupported, match="BlkioWeight"):
        update_of(plain, Fields({"BlkioWeight": 500}))


def test_an_endpoint_as_network_connect_asks_for_it() -> None:
    ipam = {"IPv4Address": "10.0.1.9", "IPv6Address": "FD00::9"}
    endpoint = Fields({"Aliases": ["db"], "IPAMConfig": ipam, "GwPriority": -1, "Links": None, "DriverOpts": {}})
    wanted = attachment("lan", endpoint)
    assert (wanted.target, list(wanted.aliases), list(wanted.addresses)) == ("lan", ["db"], ["10.0.1.9", "fd00::9"])
    assert gateway_priority(endpoint) == -1
    networking = {"EndpointsConfig": {"lan": {"GwPriority": 7}}}
    assert dict(container({"NetworkMode": "lan"}, NetworkingConfig=networking).gateway_priorities) == {"lan": 7}


@pytest.mark.parametrize(
    ("endpoint", "kind", "said"),
    [
        ({"IPAMConfig": {"IPv4Address": "10.0.1"}}, InvalidArgument, "Invalid IPv4 address: 10.0.1"),
        ({"IPAMConfig": {"IPv6Address": "10.0.1.1"}}, InvalidArgument, "Invalid IPv6 address: 10.0.1.1"),
        ({"DriverOpts": {"a": "b"}}, Unsupported, "--driver-opt is not supported"),
        ({"GwPriority": 1 << 40}, InvalidArgument, "GwPriority"),
    ],
)
def test_what_cannot_be_of_an_endpoint_is_refused(endpoint: dict[str, Any], kind: type[FlotaError], said: str) -> None:
    with pytest.raises(kind, match=said):
        print(gateway_priority(Fields(endpoint)), attachment("lan", Fields(endpoint)))
