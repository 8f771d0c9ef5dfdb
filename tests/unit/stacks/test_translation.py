"""What the messages say: each key of a file, in the field of the spec it ends up in."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from flota.stacks.translation.names import NAMESPACE
from flota.stacks.translation.ordering import Cycle, in_order
from flota.v1.service_defaults import with_defaults
from flota.v1.types_pb2 import Mount, PortConfig
from tests.unit.stacks.help import spec, stack


def fields(message: Any) -> Any:
    """A message as plain values, by the names of its fields."""
    return MessageToDict(message, preserving_proto_field_name=True)


CONTAINER = [
    ("command: a b, entrypoint: [c]", {"args": ["a", "b"], "command": ["c"]}),
    ("environment: {B: 2, A: 1}", {"env": ["A=1", "B=2"]}),
    ("hostname: 'h-{{.Task.Slot}}', working_dir: /w, user: '1:2', group_add: [mail]",
     {"hostname": "h-{{.Task.Slot}}", "dir": "/w", "user": "1:2", "groups": ["mail"]}),
    ("tty: true, stdin_open: true, read_only: true, init: true",
     {"tty": True, "open_stdin": True, "read_only": True, "init": True}),
    ("stop_signal: SIGINT, stop_grace_period: 1m", {"stop_signal": "SIGINT", "stop_grace_period": "60s"}),
    ("extra_hosts: [a=1.2.3.4]", {"hosts": ["1.2.3.4 a"]}),
    ("dns: 1.1.1.1, dns_search: [a.b], dns_opt: ['ndots:2']",
     {"dns": {"nameservers": ["1.1.1.1"], "search": ["a.b"], "options": ["ndots:2"]}}),
    ("cap_add: [net_admin, CAP_SYS_TIME], cap_drop: [all]",
     {"capability_add": ["CAP_NET_ADMIN", "CAP_SYS_TIME"], "capability_drop": ["ALL"]}),
    ("ulimits: {nofile: {soft: 1, hard: 2}, core: -1}",
     {"ulimits": [{"name": "core", "soft": "-1", "hard": "-1"}, {"name": "nofile", "soft": "1", "hard": "2"}]}),
    ("sysctls: {net.core.somaxconn: 1}, oom_score_adj: -5",
     {"sysctls": {"net.core.somaxconn": "1"}, "oom_score_adj": -5}),
    ("healthcheck: {test: x, interval: 1s, timeout: 2s, retries: 3, start_period: 4s, start_interval: 5s}",
     {"healthcheck": {"test": ["CMD-SHELL", "x"], "interval": "1s", "timeout": "2s", "retries": 3, "start_period": "4s",
                      "start_interval": "5s"}}),
    ("healthcheck: {disable: true}", {"healthcheck": {"test": ["NONE"]}}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CONTAINER)
def test_containers(text: str, expected: Any) -> None:
    container = fields(spec(text).task.container)
    assert container.pop("image") == "x"
    assert container.pop("labels") == {NAMESPACE: "s"}
    assert container == expected


SPEC = [
    ("deploy: {}", "replicated", {"replicas": "1"}),
    ("deploy: {replicas: 0}", "replicated", {"replicas": "0"}),
    ("deploy: {mode: global}", "global", {}),
    ("deploy: {mode: replicated-job, replicas: 3}", "replicated_job",
     {"max_concurrent": "3", "total_completions": "3"}),
    ("deploy: {mode: global-job}", "global_job", {}),
    ("deploy: {update_config: {}}", "update", {"parallelism": "1"}),
    ("deploy: {update_config: {parallelism: 0}}", "update", {}),
    ("deploy: {update_config: {parallelism: 2, delay: 1s, monitor: 2s, failure_action: rollback, order: start-first, "
     "max_failure_ratio: 0.5}}", "update",
     {"parallelism": "2", "delay": "1s", "monitor": "2s", "failure_action": "FAILURE_ACTION_ROLLBACK",
      "order": "ORDER_START_FIRST", "max_failure_ratio": 0.5}),
    ("deploy: {rollback_config: {order: start-first}}", "rollback", {"parallelism": "1", "order": "ORDER_START_FIRST"}),
    ("deploy: {endpoint_mode: dnsrr}", "endpoint", {"mode": "MODE_DNSRR"}),
    ("ports: ['8080:80', 53/udp]", "endpoint",
     {"ports": [{"protocol": "PROTOCOL_UDP", "target_port": 53}, {"target_port": 80, "published_port": 8080}]}),
    ("ports: [{target: 80, x-proxy-protocol: v2}]", "endpoint",
     {"ports": [{"target_port": 80, "proxy_protocol": "PROXY_PROTOCOL_V2"}]}),
    ("ports: [{target: 80, x-proxy-protocol: V1}]", "endpoint",
     {"ports": [{"target_port": 80, "proxy_protocol": "PROXY_PROTOCOL_V1"}]}),
    ("ports: [{target: 80, mode: host, name: n}]", "endpoint",
     {"ports": [{"name": "n", "target_port": 80, "publish_mode": "PUBLISH_MODE_HOST"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "field", "expected"), SPEC)
def test_services(text: str, field: str, expected: Any) -> None:
    assert fields(spec(text))[field] == expected


TASK = [
    ("deploy: {resources: {limits: {cpus: 1.5, memory: 64m, pids: 5}, reservations: {cpus: .5, memory: 32m, "
     "generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}}}", "resources",
     {"limits": {"nano_cpus": "1500000000", "memory_bytes": "67108864"}, "pids_limit": "5",
      "reservations": {"nano_cpus": "500000000", "memory_bytes": "33554432",
                       "generic": [{"kind": "gpu", "count": "2"}]}}),
    ("mem_limit: 64m, memswap_limit: 128m, mem_swappiness: 0", "resources",
     {"limits": {"memory_bytes": "67108864"}, "memory_swap_bytes": "134217728", "memory_swappiness": "0",
      "reservations": {}}),
    ("deploy: {restart_policy: {condition: on-failure, delay: 1s, max_attempts: 2, window: 3s}}", "restart",
     {"condition": "CONDITION_ON_FAILURE", "delay": "1s", "max_attempts": "2", "window": "3s"}),
    ("restart: 'no'", "restart", {"condition": "CONDITION_NONE"}),
    ("deploy: {placement: {constraints: ['node.role == manager'], preferences: [{spread: node.labels.z}], "
     "max_replicas_per_node: 2}}, platform: linux/x86_64", "placement",
     {"constraints": ["node.role==manager"], "preferences": [{"spread": {"descriptor": "node.labels.z"}}],
      "max_replicas": "2", "platforms": [{"architecture": "amd64", "os": "linux"}]}),
    ("logging: {driver: syslog, options: {tag: t}}", "log_driver", {"name": "syslog", "options": {"tag": "t"}}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "field", "expected"), TASK)
def test_tasks(text: str, field: str, expected: Any) -> None:
    assert fields(spec(text).task)[field] == expected


def test_labels_of_services_and_of_containers() -> None:
    made = spec("labels: {a: 1}, deploy: {labels: {b: 2}}")
    assert dict(made.annotations.labels) == {"b": "2", NAMESPACE: "s", "com.docker.stack.image": "x"}
    assert dict(made.task.container.labels) == {"a": "1", NAMESPACE: "s"}


def test_networks_are_named_and_the_service_is_found_on_each() -> None:
    top = "networks: {a: , b: {name: own}, c: {external: true}, d: {external: true, name: far}, unused: }"
    text = "networks: {a: {aliases: [n, web]}, b: {ipv4_address: 10.0.0.5}, c: , d: {driver_opts: {x: y}}}"
    made = [(each.target, list(each.aliases), list(each.addresses)) for each in spec(text, top).task.networks]
    assert made == [
        ("c", ["web"], []), ("far", ["web"], []), ("own", ["web"], ["10.0.0.5"]), ("s_a", ["n", "web"], []),
    ]  # fmt: skip
    whole = stack(f"services: {{web: {{image: x, {text}}}}}\n{top}")
    assert [network.annotations.name for network in whole.networks] == ["s_a", "own"]
    assert whole.external == [("network", "c"), ("network", "far")]


def test_a_network_with_everything() -> None:
    whole = stack(
        "services: {web: {image: x, networks: [n]}}\nnetworks: {n: {driver: overlay, driver_opts: {encrypted: ''}, "
        "internal: true, attachable: true, enable_ipv6: true, labels: [a=b], ipam: {config: [{subnet: 10.1.0.0/24, "
        "ip_range: 10.1.0.128/25, gateway: 10.1.0.1, aux_addresses: {r: 10.1.0.2}}]}}}"
    )
    assert whole.warnings == []
    assert fields(whole.networks[0]) == {
        "annotations": {"name": "s_n", "labels": {"a": "b", NAMESPACE: "s"}},
        "driver": {"name": "overlay", "options": {"encrypted": ""}},
        "attachable": True, "internal": True, "ipv6_enabled": True,
        "ipam": [{"subnet": "10.1.0.0/24", "range": "10.1.0.128/25",
                  "gateway": "10.1.0.1", "reserved": {"r": "10.1.0.2"}}],
    }  # fmt: skip


def test_volumes_are_named_and_labelled() -> None:
    top = "volumes: {a: {driver: local, driver_opts: {type: nfs}, labels: [x=y]}, b: {name: own}, c: {external: true}}"
    mounts = {each.target: each for each in spec("volumes: [a:/a, b:/b:ro, c:/c, /d]", top).task.container.mounts}
    assert [mounts[target].source for target in ("/a", "/b", "/c", "/d")] == ["s_a", "own", "c", ""]
    assert dict(mounts["/a"].volume_labels) == {"x": "y", NAMESPACE: "s"}
    assert fields(mounts["/a"].volume_driver) == {"name": "local", "options": {"type": "nfs"}}
    assert mounts["/b"].read_only
    assert not mounts["/b"].HasField("volume_driver")
    assert not mounts["/c"].volume_labels


def test_binds_and_tmpfs() -> None:
    container = spec(
        "volumes: [{type: bind, source: ./x, target: /x, bind: {propagation: rslave, create_host_path: true, "
        "recursive: disabled}}, {type: bind, source: /y, target: /y, read_only: true, bind: {recursive: writable}}, "
        "{type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}], "
        "tmpfs: ['/r:size=2m,mode=755']"
    ).task.container
    bind, writable, tmpfs, short = container.mounts
    assert (writable.read_only, writable.bind_writable_below, writable.bind_nonrecursive) == (True, True, False)
    assert (bind.type, bind.source, bind.bind_create_source) == (Mount.TYPE_BIND, "/p/x", True)
    assert (bind.bind_propagation, bind.bind_nonrecursive) == (Mount.PROPAGATION_RSLAVE, True)
    assert (tmpfs.type, tmpfs.tmpfs_size_bytes, tmpfs.tmpfs_mode) == (Mount.TYPE_TMPFS, 1 << 20, 0o700)
    assert (short.target, short.tmpfs_size_bytes, short.tmpfs_mode) == ("/r", 2 << 20, 0o755)


def test_secrets_and_configs() -> None:
    whole = stack(
        "services: {web: {image: x, secrets: [b, {source: a, target: t, uid: 5, mode: 0400}], configs: [a, e]}}\n"
        "secrets: {a: {environment: A}, b: {content: bb, name: own}}\n"
        "configs: {a: {content: $$1, template_driver: golang}, e: {external: true, name: far}}",
        environment={"A": "aa"},
    )
    container = whole.services[0].task.container
    assert [(each.secret_name, each.file.name, each.file.uid, each.file.mode) for each in container.secrets] == [
        ("own", "b", "0", 0o444), ("s_a", "t", "5", 0o400),
    ]  # fmt: skip
    assert [(each.config_name, each.file.name) for each in container.configs] == [("far", "/e"), ("s_a", "/a")]
    assert [(each.annotations.name, each.data) for each in whole.secrets] == [("s_a", b"aa"), ("own", b"bb")]
    assert [(each.annotations.name, each.data, each.template_driver) for each in whole.configs] == [
        ("s_a", b"$1", "golang")
    ]
    assert whole.external == [("config", "far")]


def test_the_order_of_keys_does_not_matter() -> None:
    top = "secrets: {a: {content: x}, b: {content: x}}"
    one = spec("environment: {A: 1, B: 2}, cap_add: [A, B], secrets: [a, b], ports: [80, 81]", top)
    two = spec("ports: [81, 80], secrets: [b, a], cap_add: [B, A], environment: [B=2, A=1]", top)
    assert one == two
    assert with_defaults(one) == with_defaults(two)


def test_ports_say_what_is_ignored() -> None:
    whole = stack("services: {web: {image: x, ports: ['127.0.0.1:80:80', '0.0.0.0:81:81']}}")
    assert whole.services[0].endpoint.ports[0].publish_mode == PortConfig.PUBLISH_MODE_INGRESS
    assert whole.warnings == [
        "the address 127.0.0.1 of ports (web 80) is ignored: every node listens on all its addresses"
    ]


def test_services_come_in_the_order_of_their_dependencies() -> None:
    whole = stack(
        "services: {a: {image: x, depends_on: [c, b]}, b: {image: x}, c: {image: x, depends_on: {d: {condition: "
        "service_healthy}}}, d: {image: x}, e: {image: x}}"
    )
    assert [each.annotations.name for each in whole.services] == ["s_b", "s_d", "s_c", "s_a", "s_e"]
    assert {each.annotations.name: fields(each).get("depends_on") for each in whole.services} == {
        "s_a": [{"service": "s_b"}, {"service": "s_c"}],
        "s_c": [{"service": "s_d", "condition": "CONDITION_HEALTHY"}],
        **dict.fromkeys(("s_b", "s_d", "s_e")),
    }


def test_long_chains_and_cycles() -> None:
    chain = {f"s{n}": [f"s{n + 1}"] for n in range(5000)}
    assert in_order(["s0"], chain) == [f"s{n}" for n in range(5000, -1, -1)]
    chain["s5000"] = ["s4998"]
    with pytest.raises(Cycle, match="s4998 → s4999 → s5000 → s4998"):
        in_order(["s0"], chain)


def test_places_beside_services_of_the_file_are_beside_the_stacks() -> None:
    made = stack(
        "services: {db: {image: x}, web: {image: x, deploy: {placement: "
        "{constraints: [service.db==other-node, service.far!=same-node]}}}}"
    )
    web = next(spec for spec in made.services if spec.annotations.name == "s_web")
    assert list(web.task.placement.constraints) == ["service.s_db==other-node", "service.far!=same-node"]
