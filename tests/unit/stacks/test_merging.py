"""Several files over each other, by the specification's rules."""

from typing import Any

import pytest

from tests.unit.stacks.help import plain, project


def merged(base: str, over: str, *more: str, top: str = "") -> Any:
    """The keys of service web after merging."""
    texts = [f"services:\n  web: {{image: x, {base}}}\n{top}"]
    texts += [f"services:\n  web: {{{text}}}" for text in (over, *more)]
    made = plain(project(*texts).tree["services"]["web"])
    del made["image"]
    if made["networks"] == {"default": {}}:
        del made["networks"]
    return made


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ("user: a", "user: b", {"user": "b"}),
        ("user: a", "hostname: b", {"user": "a", "hostname": "b"}),
        ("user: a", "user:", {"user": "a"}),
        ("command: [a, b]", "command: [c]", {"command": ["c"]}),
        ("command: [a, b]", "command: []", {"command": []}),
        ("entrypoint: a b", "entrypoint: c", {"entrypoint": ["c"]}),
        ("environment: {A: 1, B: 2}", "environment: [B=3, C=4]", {"environment": {"A": "1", "B": "3", "C": "4"}}),
        ("environment: [A=1]", "environment: {A: }", {"environment": {}}),
        ("labels: [a=1]", "labels: {b: 2}", {"labels": {"a": "1", "b": "2"}}),
        ("dns: 1.1.1.1", "dns: [2.2.2.2, 1.1.1.1]", {"dns": ["1.1.1.1", "2.2.2.2"]}),
        ("cap_add: [A]", "cap_add: [B, A]", {"cap_add": ["A", "B"]}),
        ("tmpfs: ['/a:size=1m', /b]", "tmpfs: '/a:size=2m'", {"tmpfs": ["/a:size=2m", "/b"]}),
        ("extra_hosts: ['a=1.1.1.1']", "extra_hosts: {a: 2.2.2.2}", {"extra_hosts": ["a=1.1.1.1", "a=2.2.2.2"]}),
        ("sysctls: {a.b: 1}", "sysctls: [a.b=2, c.d=3]", {"sysctls": {"a.b": "2", "c.d": "3"}}),
        ("ulimits: {nofile: 1, core: 2}", "ulimits: {nofile: {soft: 3, hard: 4}}",
         {"ulimits": {"nofile": {"soft": 3, "hard": 4}, "core": 2}}),
        ("ulimits: {nofile: {soft: 3, hard: 4}}", "ulimits: {nofile: 1}", {"ulimits": {"nofile": 1}}),
        ("healthcheck: {test: a, interval: 1s}", "healthcheck: {test: [CMD, b], timeout: 2s}",
         {"healthcheck": {"test": ["CMD", "b"], "interval": "1s", "timeout": "2s"}}),
        ("healthcheck: {test: a}", "healthcheck: {disable: true}", {"healthcheck": {"disable": True}}),
        ("logging: {driver: a, options: {x: 1}}", "logging: {driver: b, options: {y: 2}}",
         {"logging": {"driver": "b", "options": {"y": "2"}}}),
        ("logging: {driver: a, options: {x: 1}}", "logging: {options: {y: 2}}",
         {"logging": {"driver": "a", "options": {"x": "1", "y": "2"}}}),
        ("deploy: {replicas: 2, resources: {limits: {cpus: 1}}}", "deploy: {resources: {limits: {memory: 1k}}}",
         {"deploy": {"replicas": 2, "resources": {"limits": {"cpus": "1", "memory": "1024"}}}}),
        ("deploy: {placement: {constraints: [a==1], preferences: [{spread: node.labels.x}]}}",
         "deploy: {placement: {constraints: [b==1, a==1], preferences: [{spread: node.labels.y}]}}",
         {"deploy": {"placement": {"constraints": ["a==1", "b==1"],
                                   "preferences": [{"spread": "node.labels.x"}, {"spread": "node.labels.y"}]}}}),
        ("x-a: {b: 1}", "x-a: {c: 2}", {"x-a": {"b": 1, "c": 2}}),
        ("user: a", "user: !reset null", {}),
        ("environment: {A: 1, B: 2}", "environment: {A: !reset null, C: 3}", {"environment": {"B": "2", "C": "3"}}),
        ("environment: {A: 1, B: 2}", "environment: !override {C: 3}", {"environment": {"C": "3"}}),
        ("dns: [1.1.1.1]", "dns: !override [2.2.2.2]", {"dns": ["2.2.2.2"]}),
        ("deploy: {placement: {constraints: [a==1]}, replicas: 2}", "deploy: {placement: !reset {}}",
         {"deploy": {"replicas": 2}}),
    ],
)  # fmt: skip
def test_rules(base: str, over: str, result: Any) -> None:
    assert merged(base, over) == result


def test_ports_are_known_by_address_published_target_and_protocol() -> None:
    made = merged("ports: ['80:80', '53:53/udp']", "ports: ['80:80/tcp', '81:80', {target: 53, published: 53}]")
    assert [(port.get("published"), port["target"], port["protocol"]) for port in made["ports"]] == [
        ("80", 80, "tcp"), ("53", 53, "udp"), ("81", 80, "tcp"), ("53", 53, "tcp"),
    ]  # fmt: skip
    made = merged("ports: ['80:80']", "ports: [{target: 80, published: 80, mode: host}]")
    assert [port["mode"] for port in made["ports"]] == ["host"]


def test_mounts_are_known_by_their_target() -> None:
    made = merged("volumes: [a:/a:ro, /x:/b]", "volumes: [/y:/a/, {type: tmpfs, target: /c}]", top="volumes: {a: }")
    assert [(mount["type"], mount.get("source"), mount["target"]) for mount in made["volumes"]] == [
        ("bind", "/y", "/a/"), ("bind", "/x", "/b"), ("tmpfs", None, "/c"),
    ]  # fmt: skip
    assert "read_only" not in made["volumes"][0]


def test_secrets_are_known_by_their_target() -> None:
    top = "secrets: {a: {content: x}, b: {content: y}}"
    made = merged("secrets: [a, b]", "secrets: [{source: b, target: a}, {source: b, mode: '0400'}]", top=top)
    assert made["secrets"] == [{"source": "b", "target": "a"}, {"source": "b", "mode": "0400"}]


def test_networks_and_dependencies_are_merged_by_name() -> None:
    top = "  db: {image: y}\nnetworks: {a: , b: }"
    made = merged(
        "networks: [a], depends_on: [db]",
        "networks: {a: {aliases: [n]}, b: }, depends_on: {db: {condition: service_healthy}}",
        top=top,
    )
    assert made["networks"] == {"a": {"aliases": ["n"]}, "b": {}}
    assert made["depends_on"] == {"db": {"condition": "service_healthy", "required": True}}


def test_many_files_are_merged_one_after_the_other() -> None:
    made = merged("dns: [1.1.1.1], user: a", "dns: !reset []", "dns: [3.3.3.3]", "user: d")
    assert made == {"dns": ["3.3.3.3"], "user": "d"}


def test_top_level_objects_are_merged_too() -> None:
    loaded = project(
        "services: {web: {image: x}}\nnetworks: {n: {labels: {a: 1}, ipam: {config: [{subnet: 10.0.0.0/24}]}}}\n"
        "volumes: {v: {driver_opts: {a: 1}}}\nconfigs: {c: {content: a}}\nname: one",
        "networks: {n: {internal: true, labels: [b=2], ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.0.0.9}]}}}\n"
        "volumes: {v: {driver_opts: {b: 2}}, w: }\nconfigs: {c: {content: b}}\nname: two\nservices: {db: {image: y}}",
    )
    tree = plain(loaded.tree)
    assert tree["name"] == "two"
    assert list(tree["services"]) == ["web", "db"]
    assert tree["networks"]["n"] == {
        "internal": True,
        "labels": {"a": "1", "b": "2"},
        "ipam": {"config": [{"subnet": "10.0.0.0/24", "gateway": "10.0.0.9"}]},
    }
    assert tree["volumes"] == {"v": {"driver_opts": {"a": "1", "b": "2"}}, "w": {}}
    assert tree["configs"] == {"c": {"content": "b"}}


def test_errors_after_merging_name_the_file_that_said_it() -> None:
    from tests.unit.stacks.help import refusal

    base = "services:\n  web: {image: x}"
    assert refusal(base, "services:\n  web:\n    depends_on: [nope]") == (
        "c2.yml:3: services.web.depends_on.nope: there is no service 'nope'"
    )
    assert refusal(base, "services:\n  web:\n    ports:\n    - 80:x").startswith("c2.yml:4: services.web.ports[0]:")
