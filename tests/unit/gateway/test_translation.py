"""Docker's JSON and flota's messages: nothing is lost on the way there and back, and nonsense is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.gateway.translation import asked, shown, shown_spec
from flota.gateway.translation.fields import Fields
from flota.gateway.translation.keeping import keep_swarm_unknown_to_docker, keep_unknown_to_docker
from flota.rpc.errors import FlotaError, InvalidArgument, Unsupported
from flota.v1 import objects_pb2 as objects
from flota.v1 import specs_pb2 as specs
from flota.v1 import types_pb2 as types
from tests.unit.gateway.messages import Rules, messages


def _service(draw: st.DrawFn, spec: Any) -> None:
    mode = draw(st.sampled_from(["replicated", "global", "replicated_job", "global_job"]))
    if spec.WhichOneof("mode") != mode:
        getattr(spec, mode).SetInParent()
    if mode == "replicated" and not spec.replicated.HasField("replicas"):
        spec.replicated.replicas = 1
    # These are always shown.
    spec.annotations.SetInParent()
    spec.endpoint.SetInParent()
    spec.task.container.SetInParent()


def _container(draw: st.DrawFn, spec: Any) -> None:
    # It travels in a header.
    spec.registry_auth = ""


def _mount(draw: st.DrawFn, mount: Any) -> None:
    # Only the options of its own kind are shown.
    kind = types.Mount.Type.Name(mount.type).removeprefix("TYPE_").lower()
    for field in mount.DESCRIPTOR.fields:
        if field.name.startswith(("bind_", "volume_", "tmpfs_")) and not field.name.startswith(kind):
            mount.ClearField(field.name)


def _generic(draw: st.DrawFn, resource: Any) -> None:
    if resource.name:
        resource.count = 0


def _reference(draw: st.DrawFn, reference: Any) -> None:
    reference.file.SetInParent()


def _preference(draw: st.DrawFn, preference: Any) -> None:
    preference.spread.SetInParent()


def _port(draw: st.DrawFn, port: Any) -> None:
    # Of a service's ports managers refuse it.
    port.host_address = ""


def _requirements(draw: st.DrawFn, resources: Any) -> None:
    # Of services managers refuse them.
    for field in ("cpu_shares", "cpuset_cpus", "cpuset_mems"):
        resources.ClearField(field)


RULES: Rules = {
    "ResourceRequirements": _requirements,
    "ServiceSpec": _service,
    "ContainerSpec": _container,
    "Mount": _mount,
    "PortConfig": _port,
    "GenericResource": _generic,
    "SecretReference": _reference,
    "ConfigReference": _reference,
    "PlacementPreference": _preference,
}


def over_the_wire(shape: Any) -> Fields:
    return Fields(json.loads(json.dumps(shape)))


@given(messages(specs.ServiceSpec, RULES))
def test_a_service_comes_back_as_it_was(spec: specs.ServiceSpec) -> None:
    assert asked.service_spec(over_the_wire(shown_spec.service_spec(spec))) == spec


# Where flota's own words stand, which Docker's clients drop when they write what they read.
FLOTAS_OWN = {
    "": {"DependsOn", "Rebalance", "Stopped"},
    "Placement": {"Strategy"},
    "ContainerSpec": {"Devices"},
    "Healthcheck": {"Action"},
    "VolumeOptions": {"Affinity"},
    "Ports": {"ProxyProtocol"},
}


def as_docker_writes(shape: Any, around: str = "") -> Any:
    if isinstance(shape, list):
        return [as_docker_writes(each, around) for each in shape]
    if not isinstance(shape, dict):
        return shape
    dropped = FLOTAS_OWN.get(around, set())
    return {key: as_docker_writes(value, key) for key, value in shape.items() if key not in dropped}


@given(messages(specs.ServiceSpec, RULES))
def test_a_service_that_dockers_client_reads_and_writes_comes_back_as_it_was(spec: specs.ServiceSpec) -> None:
    # Volumes are told apart by where they are mounted.
    for number, mount in enumerate(spec.task.container.mounts):
        mount.target = f"/{number}"
    for number, port in enumerate(spec.endpoint.ports):
        port.published_port = number
    if spec.task.container.HasField("healthcheck") and not spec.task.container.healthcheck.test:
        spec.task.container.healthcheck.test.append("CMD")
    given = over_the_wire(as_docker_writes(shown_spec.service_spec(spec)))
    back = asked.service_spec(given)
    keep_unknown_to_docker(back, given, spec)
    assert back == spec


@given(messages(specs.NodeSpec, RULES))
def test_a_node_comes_back_as_it_was(spec: specs.NodeSpec) -> None:
    assert asked.node_spec(over_the_wire(shown.node(objects.Node(spec=spec))["Spec"])) == _with(spec)


@given(messages(specs.ConfigSpec, RULES))
def test_a_config_comes_back_as_it_was(spec: specs.ConfigSpec) -> None:
    assert asked.config_spec(over_the_wire(shown.config(objects.Config(spec=spec))["Spec"])) == _with(spec)


@given(messages(specs.ClusterSpec, RULES))
def test_a_cluster_comes_back_as_it_was(spec: specs.ClusterSpec) -> None:
    spec.orchestration.task_history_retention_limit = 3
    # These are never stored.
    spec.ca.signing_certificate = spec.ca.signing_key = b""
    back = asked.cluster_spec(over_the_wire(shown.cluster(objects.Cluster(spec=spec))["Spec"]))
    assert back == _with(spec)


def test_a_swarm_that_dockers_client_reads_and_writes_keeps_what_docker_does_not_know() -> None:
    spec = specs.ClusterSpec(
        raft=specs.RaftConfig(snapshot_interval=10_000),
        encryption=specs.EncryptionConfig(encrypt_networks=True),
        strategy=types.PlacementStrategy.PLACEMENT_STRATEGY_BINPACK,
        rebalance=types.RebalancePolicy.REBALANCE_POLICY_ALWAYS,
    )
    spec.raft.read_lease.nanos = 300_000_000
    spec.ca.node_cert_expiry.seconds = 3600
    spec.dispatcher.heartbeat_period.seconds = 5
    spec.orchestration.task_history_retention_limit = 3
    shape = shown.cluster(objects.Cluster(spec=spec))["Spec"]
    for name in ("Strategy", "Rebalance", "EncryptNetworks"):
        del shape[name]
    del shape["Raft"]["ReadLease"]
    given = over_the_wire(shape)
    back = asked.cluster_spec(given)
    keep_swarm_unknown_to_docker(back, given, spec)
    assert back == _with(spec)


@given(messages(specs.NetworkSpec, RULES))
def test_a_network_comes_back_as_it_was(spec: specs.NetworkSpec) -> None:
    spec.driver.name = "overlay"
    assert asked.network_spec(over_the_wire(shown.network(objects.Network(spec=spec)))) == _with(spec)


def _with(spec: Any) -> Any:
    spec.annotations.SetInParent()
    return spec


def test_a_secret_is_read_and_its_data_never_shown() -> None:
    spec = asked.secret_spec(Fields({"Name": "pw", "Data": "aGVsbG8=", "Labels": {"a": "b"}}))
    assert (spec.annotations.name, spec.data) == ("pw", b"hello")
    assert "Data" not in shown.secret(objects.Secret(spec=spec))["Spec"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"TaskTemplate": {"ContainerSpec": {"Image": 5}}}, "TaskTemplate.ContainerSpec.Image 5"),
        ({"TaskTemplate": {"ContainerSpec": {"Env": "A=B"}}}, "TaskTemplate.ContainerSpec.Env 'A=B': a list"),
        ({"Mode": {"Replicated": {"Replicas": -1}}}, "Mode.Replicated.Replicas -1"),
        ({"Mode": {"Replicated": {}, "Global": {}}}, "Mode"),
        ({"EndpointSpec": {"Ports": [{"TargetPort": 70000}]}}, "EndpointSpec.Ports[0].TargetPort 70000"),
        ({"EndpointSpec": {"Ports": [{"Protocol": "icmp"}]}}, "one of tcp, udp, sctp"),
        ({"UpdateConfig": {"FailureAction": "explode"}}, "UpdateConfig.FailureAction 'explode'"),
        ({"Labels": {"a": 1}}, "Labels.a 1"),
        ({"TaskTemplate": "web"}, "TaskTemplate 'web': a JSON object"),
    ],
)
def test_what_makes_no_sense_is_named(body: Any, words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        asked.service_spec(Fields(body))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"Privileges": {"AppArmor": {"Mode": "mine"}}}, "AppArmor"),
        ({"Privileges": {"CredentialSpec": {"File": "x"}}}, "CredentialSpec"),
        ({"Privileges": {"SELinuxContext": {"User": "x"}}}, "SELinuxContext"),
        ({"Privileges": {"Seccomp": {"Mode": "custom", "Profile": "e30="}}}, "Seccomp"),
        ({"Isolation": "hyperv"}, "Isolation"),
        ({"Configs": [{"Runtime": {}, "ConfigID": "x"}]}, "Runtime"),
    ],
)
def test_what_somebody_relies_on_is_not_just_dropped(container: Any, words: str) -> None:
    with pytest.raises(Unsupported) as refused:
        asked.service_spec(Fields({"TaskTemplate": {"ContainerSpec": container}}))
    assert words in str(refused.value)


def test_privileges_go_both_ways() -> None:
    privileges = {"NoNewPrivileges": True, "Seccomp": {"Mode": "unconfined"}}
    same = {"AppArmor": {"Mode": "disabled"}, "SELinuxContext": {"Disable": True}, "CredentialSpec": None}
    spec = asked.service_spec(Fields({"TaskTemplate": {"ContainerSpec": {"Privileges": privileges | same}}}))
    container = spec.task.container
    assert (container.no_new_privileges, container.seccomp_unconfined) == (True, True)
    assert shown_spec.container_spec(container)["Privileges"] == privileges


def test_go_clients_and_their_nulls_and_letters_are_understood() -> None:
    spec = asked.service_spec(
        Fields(
            {
                "name": "web",
                "Labels": None,
                "TaskTemplate": {"containerSpec": {"image": "busybox", "Mounts": None}, "Runtime": "container"},
                "Mode": {"Replicated": {"Replicas": None}, "Global": None},
                "Unknown": {"x": 1},
            }
        )
    )
    assert (spec.annotations.name, spec.task.container.image) == ("web", "busybox")
    assert spec.WhichOneof("mode") == "replicated"
    assert not spec.replicated.HasField("replicas")


def test_an_authority_that_cannot_be_changed_is_not_left_alone_in_silence() -> None:
    with pytest.raises(Unsupported, match="CAConfig"):
        asked.cluster_spec(Fields({"CAConfig": {"ExternalCAs": [{"URL": "x"}]}}))
    given = asked.cluster_spec(Fields({"CAConfig": {"ForceRotate": 1, "SigningCACert": "x", "SigningCAKey": "y"}}))
    assert (given.ca.force_rotate, given.ca.signing_certificate, given.ca.signing_key) == (1, b"x", b"y")
    assert not asked.cluster_spec(Fields({"CAConfig": {"ForceRotate": 0, "NodeCertExpiry": 0}})).ca.ByteSize()


def test_networks_may_stand_where_old_clients_put_them() -> None:
    spec = asked.service_spec(Fields({"Networks": [{"Target": "front"}], "TaskTemplate": {}}))
    assert [network.target for network in spec.task.networks] == ["front"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["TaskTemplate", "Mode", "EndpointSpec", "UpdateConfig", "Labels"]), JSON))
def test_noise_is_refused_in_one_line(body: Any) -> None:
    said = "x"
    try:
        asked.service_spec(Fields(body))
    except FlotaError as error:
        said = str(error)
    assert "\n" not in said
