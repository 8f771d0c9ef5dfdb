"""What a plan makes of a Docker swarm's answers."""

import base64
from typing import Any

from flota.gateway.migration import KINDS, DockerSwarm, Plan, plan
from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec

NETWORK: dict[str, Any] = {
    "Id": "n1", "Name": "back", "Scope": "swarm", "Driver": "overlay", "Attachable": True, "Ingress": False,
    "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.0.1.0/24"}]}, "Labels": {"a": "b"},
    "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097"},
}  # fmt: skip
OTHERS = [
    NETWORK | {"Id": "n2", "Name": "ingress", "Ingress": True},
    NETWORK | {"Id": "n3", "Name": "bridge", "Scope": "local", "Driver": "bridge"},
]
CONFIG = {"ID": "c1", "Spec": {"Name": "page", "Data": base64.b64encode(b"shown").decode()}}
SECRET = {"ID": "s1", "Spec": {"Name": "password", "Labels": {"x": "y"}}}
SERVICE: dict[str, Any] = {
    "ID": "v1",
    "Spec": {
        "Name": "db",
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox",
                "Secrets": [{"SecretID": "s1", "SecretName": "password", "File": {"Name": "password"}}],
                "Configs": [{"ConfigID": "c1", "ConfigName": "page", "File": {"Name": "/page"}}],
                "Mounts": [{"Type": "volume", "Source": "data", "Target": "/data"}],
            },
            "Placement": {"Constraints": ["node.hostname==old"]},
            "Networks": [{"Target": "n1", "Aliases": ["store"]}],
        },
        "Mode": {"Global": {}},
    },
}
NODE = {"Spec": {"Labels": {"zone": "east"}}, "Description": {"Hostname": "old"}}


def planned(secrets: dict[str, bytes] | None = None, **here: set[str]) -> Plan:
    source = DockerSwarm([NETWORK, *OTHERS], [CONFIG], [SECRET], [SERVICE], [NODE])
    return plan(source, {kind: here.get(kind, set()) for kind in KINDS}, secrets or {})


def test_everything_is_made_by_name_and_in_order() -> None:
    made = planned({"password": b"hidden"})
    assert [(step.kind, step.name) for step in made.steps] == [
        ("network", "back"), ("config", "page"), ("secret", "password"), ("service", "db"),
    ]  # fmt: skip
    assert made.blocked == []
    network, config, secret, service = (step.spec for step in made.steps)
    assert isinstance(network, NetworkSpec)
    assert (network.attachable, list(network.ipam), dict(network.driver.options)) == (True, [], {})
    assert isinstance(config, ConfigSpec)
    assert config.data == b"shown"
    assert isinstance(secret, SecretSpec)
    assert (secret.data, dict(secret.annotations.labels)) == (b"hidden", {"x": "y"})
    assert isinstance(service, ServiceSpec)
    task = service.task
    assert (task.networks[0].target, list(task.networks[0].aliases)) == ("back", ["store"])
    assert (task.container.secrets[0].secret_id, task.container.secrets[0].secret_name) == ("", "password")
    assert (task.container.configs[0].config_id, task.container.configs[0].config_name) == ("", "page")


def test_what_a_person_must_know_is_said() -> None:
    made = planned({"password": b"hidden"})
    assert any("data" in note for note in made.steps[-1].notes)
    assert any("node.hostname==old" in note for note in made.steps[-1].notes)
    assert made.notes == ["flota node update --label-add zone=east old"]


def test_a_secret_that_nobody_handed_over_blocks_who_needs_it() -> None:
    made = planned()
    assert [(step.kind, step.name) for step in made.blocked] == [("secret", "password"), ("service", "db")]
    assert "--secret password=FILE" in made.blocked[0].why
    assert "secret password" in made.blocked[1].why


def test_what_is_here_is_left_alone() -> None:
    made = planned(network={"back"}, config={"page"}, secret={"password"}, service={"db"})
    assert [step.there for step in made.steps] == [True] * 4
    assert made.blocked == []


def test_what_flota_does_not_have_is_refused_by_name() -> None:
    service = {"Spec": {"Name": "odd", "TaskTemplate": {"ContainerSpec": {"Isolation": "hyperv"}}}}
    made = plan(DockerSwarm(services=[service]), {kind: set() for kind in KINDS}, {})
    assert "Isolation" in made.blocked[0].why
