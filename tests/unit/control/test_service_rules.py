"""What a service's spec may not say: each mistake is one line with field, value and what is allowed."""

import pytest
from google.protobuf import text_format

from flota.manager.control.service_rules import check_service
from flota.rpc.errors import FlotaError, InvalidArgument, Unsupported
from flota.v1.specs_pb2 import ServiceSpec
from tests.unit.control.specs import refused, service_spec


def spec_with(text: str, name: str = "web") -> ServiceSpec:
    """busybox, and what `text` (protobuf's text form) adds or replaces."""
    spec = service_spec(name)
    text_format.Merge(text, spec)
    return spec


def in_container(text: str) -> str:
    return f"task {{ container {{ {text} }} }}"


def in_task(text: str) -> str:
    return f"task {{ {text} }}"


MISTAKES: list[tuple[str, str]] = [
    # Beyond Swarm.
    ("rebalance: 9", "invalid rebalance policy 9: allowed are off, on-join and always"),
    (
        "rebalance: REBALANCE_POLICY_ON_JOIN global { }",
        "invalid rebalance policy 'on-join': only replicated services are rebalanced",
    ),
    (in_task("placement { strategy: 9 }"), "invalid placement strategy 9: allowed are spread and binpack"),
    (in_container("healthcheck { action: 9 }"), "invalid health action 9: allowed are restart and unready"),
    (
        in_task('placement { constraints: "service.db==beside" }'),
        "constraint 'service.db==beside': 'beside' is no place; allowed are same-node and other-node",
    ),
    # Images.
    (in_container('image: "Busybox"'), "invalid image 'Busybox': repository names are lower case; allowed is …"),
    (in_container('image: "busybox:"'), "invalid image 'busybox:': allowed is [HOST[:PORT]/]NAME[:TAG][@DIGEST]"),
    (in_container('image: "bus ybox"'), "invalid image 'bus ybox': allowed is …"),
    (
        in_container(f'image: "{"a" * 64}"'),
        f"invalid image '{'a' * 64}': a name is needed, not the id of an image on …",
    ),
    (in_container(f'image: "{"a" * 256}"'), f"invalid image '{'a' * 256}': its name is longer than 255 characters"),
    # The container.
    (in_container('hostname: "-x"'), "invalid hostname '-x': DNS labels of at most 63 letters, digits and '-' are …"),
    (in_container('dir: "relative"'), "invalid working directory 'relative': an absolute path is needed"),
    (in_container('env: "=x"'), "invalid environment variable '=x': KEY=VALUE is needed, with a key"),
    (in_container('env: "KEY"'), "invalid environment variable 'KEY': KEY=VALUE is needed, with a key"),
    (in_container('env: "KEY=a\\000b"'), "invalid environment variable 'KEY': it contains a NUL character"),
    (in_container('args: "a\\000b"'), "invalid argument 'a\\x00b': it contains a NUL character"),
    (in_container('stop_signal: "SIGNOPE"'), "invalid stop signal 'SIGNOPE': a name like SIGTERM or a number from 1 …"),
    (
        in_container('stop_signal: "65"'),
        "invalid stop signal '65': a name like SIGTERM or a number from 1 to 64 is needed",
    ),
    (
        in_container("stop_grace_period { seconds: -1 }"),
        "invalid stop grace period '-1s': a duration of zero or more …",
    ),
    (
        in_container('hosts: "db"'),
        "invalid host 'db': an address and at least one name are needed: '10.0.0.1 database'",
    ),
    (in_container('hosts: "10.0.0.300 db"'), "invalid host '10.0.0.300 db': an address and at least one name are …"),
    (in_container('dns { nameservers: "x" }'), "invalid DNS server 'x': an IP address is needed"),
    (in_container('dns { search: "a b" }'), "invalid DNS search domain 'a b': a domain name is needed"),
    (
        in_container('dns { options: "" }'),
        "invalid DNS option '': an option of resolv.conf(5) is needed, such as ndots:2",
    ),
    (in_container('sysctls { key: "nope" value: "1" }'), "invalid sysctl 'nope': a name like net.core.somaxconn is …"),
    (in_container('capability_add: "CAP NET"'), "invalid capability 'CAP NET': a name like CAP_NET_ADMIN, or ALL, …"),
    (in_container('ulimits { name: "files" }'), "invalid ulimit 'files': allowed are core, cpu, data, …"),
    (in_container('ulimits { name: "nofile" soft: 2 hard: 1 }'), "invalid ulimit nofile '2:1': the soft limit must …"),
    (in_container('ulimits { name: "nofile" soft: -2 }'), "invalid ulimit nofile -2: -1 means no limit"),
    (in_container('ulimits { name: "core" } ulimits { name: "core" }'), "invalid ulimit 'core': it is given twice"),
    (in_container("oom_score_adj: 1001"), "invalid OOM score adjustment 1001: allowed is -1000 to 1000"),
    (in_container('labels { key: "" value: "x" }'), "invalid container label key '': it must not be empty…"),
    (
        in_container('healthcheck { test: "curl" }'),
        "invalid health check 'curl': it begins with NONE, CMD or CMD-SHELL",
    ),
    (in_container('healthcheck { test: "CMD" }'), "invalid health check ['CMD']: CMD is followed by a command and …"),
    (in_container('healthcheck { test: "NONE" test: "x" }'), "invalid health check ['NONE', 'x']: NONE is followed …"),
    (
        in_container("healthcheck { interval { nanos: 1000 } }"),
        "invalid health interval '1e-06s': 0 (the default) or …",
    ),
    # Mounts.
    (
        in_container('mounts { type: TYPE_BIND source: "/a" target: "b" }'),
        "invalid mount target 'b': an absolute path …",
    ),
    (
        in_container('mounts { type: TYPE_BIND source: "a" target: "/b" }'),
        "invalid bind mount source 'a': an absolute …",
    ),
    (in_container('mounts { type: TYPE_VOLUME target: "/.." }'), "invalid mount target '/..': the container's root …"),
    (in_container('mounts { type: TYPE_VOLUME source: "/a" target: "/b" }'), "invalid volume name '/a': two or more …"),
    (
        in_container('mounts { type: TYPE_VOLUME target: "/b" read_only: true }'),
        "mount /b: an anonymous volume cannot …",
    ),
    (in_container('mounts { type: TYPE_TMPFS source: "x" target: "/b" }'), "invalid tmpfs mount source 'x': a tmpfs …"),
    (in_container('mounts { type: TYPE_TMPFS target: "/b" volume_nocopy: true }'), "mount /b: volume options do not …"),
    (
        in_container('mounts { type: TYPE_TMPFS target: "/b" } mounts { type: TYPE_TMPFS target: "/c/../b" }'),
        "invalid mount target '/c/../b': another mount has the same target",
    ),
    # Resources.
    (in_task("resources { limits { nano_cpus: 1 } }"), "invalid CPU limit 1e-09: at least 0.001 CPU is needed (0 = …"),
    (in_task("resources { limits { memory_bytes: 1024 } }"), "invalid memory limit 1024: at least 4 MiB are needed (…"),
    (
        in_task("resources { limits { nano_cpus: 1000000000 } reservations { nano_cpus: 2000000000 } }"),
        "invalid CPU reservation 2.0: the limit is 1.0; not more is allowed",
    ),
    (
        in_task("resources { limits { memory_bytes: 5000000 } reservations { memory_bytes: 6000000 } }"),
        "invalid memory reservation 6000000: the limit is 5000000; not more is allowed",
    ),
    (in_task("resources { pids_limit: -1 }"), "invalid process limit -1: 0 (no limit) or more is allowed"),
    (in_task("resources { memory_swap_bytes: 9000000 }"), "invalid memory and swap limit 9000000: a memory limit is …"),
    (
        in_task("resources { memory_swap_bytes: 5000000 limits { memory_bytes: 6000000 } }"),
        "invalid memory and swap limit 5000000: it includes the memory limit of 6000000; not less is allowed",
    ),
    (in_task("resources { memory_swappiness: 101 }"), "invalid memory swappiness 101: allowed is 0 to 100"),
    (
        in_task("resources { reservations { generic { count: 1 } } }"),
        "a generic resource has no kind: write KIND=COUNT…",
    ),
    (
        in_task('resources { reservations { generic { kind: "gpu" } } }'),
        "invalid generic resource gpu 0: a count of 1 …",
    ),
    (
        in_task('resources { limits { generic { kind: "gpu" count: 1 } } }'),
        "generic resources cannot be limited, only …",
    ),
    # Restarts, placement, networks, logging.
    (in_task("restart { delay { seconds: -5 } }"), "invalid restart delay '-5s': a duration of zero or more is needed"),
    (
        in_task('placement { constraints: "node.role" }'),
        "constraint 'node.role' has no operator; write KEY==VALUE or …",
    ),
    (in_task('placement { constraints: "a==b" }'), "constraint 'a==b': 'a' is not a key; allowed are letters, …"),
    (in_task('placement { constraints: "node.role=={x}" }'), "constraint 'node.role=={x}': '{x}' is not a value; …"),
    (in_task('placement { preferences { spread { descriptor: "zone" } } }'), "invalid placement preference 'zone': …"),
    (in_task("networks { }"), "a network attachment names no network"),
    (in_task('networks { target: "n" aliases: "a b" }'), "invalid network alias 'a b': allowed are DNS labels …"),
    (in_task('networks { target: "n" addresses: "x" }'), "invalid network address 'x': an IPv4 address is needed"),
    (in_task('log_driver { options { key: "a" value: "b" } }'), "log options are given without a log driver: name …"),
    # Mode, update, endpoint.
    ("replicated { replicas: 1000001 }", "invalid replicas 1000001: at most 1,000,000 are allowed"),
    (
        "global { } task { placement { max_replicas: 1 } }",
        "invalid replicas per node 1: only replicated services have …",
    ),
    ("global_job { } update { parallelism: 1 }", "a job has no update or rollback configuration: an update begins a …"),
    (
        'replicated { replicas: 2 } task { networks { target: "n" addresses: "10.0.0.5" } }',
        "invalid network address '10.0.0.5': only a service with a single replica can ask for one",
    ),
    ("update { max_failure_ratio: 1.5 }", "invalid update max failure ratio 1.5: allowed is 0 to 1"),
    ("rollback { max_failure_ratio: nan }", "invalid rollback max failure ratio nan: allowed is 0 to 1"),
    ("update { monitor { seconds: -1 } }", "invalid update monitor '-1s': a duration of zero or more is needed"),
    ("update { failure_action: 7 }", "invalid update failure action 7: allowed are pause, continue and rollback"),
    ("endpoint { mode: 5 }", "invalid endpoint mode 5: allowed are vip and dnsrr"),
    ("endpoint { ports { } }", "invalid target port 0: allowed is 1 to 65535"),
    (
        "endpoint { ports { target_port: 80 published_port: 70000 } }",
        "invalid published port 70000: allowed is 0 (any)…",
    ),
    (
        "endpoint { ports { target_port: 80 published_port: 1 } ports { target_port: 81 published_port: 1 } }",
        "invalid published port '1/tcp': it is given twice",
    ),
    (
        "endpoint { ports { target_port: 80 published_port: 80 protocol: PROTOCOL_UDP proxy_protocol: 1 } }",
        "invalid PROXY protocol of port '80/udp': it is for TCP",
    ),
    (
        "endpoint { ports { target_port: 80 proxy_protocol: 1 } ports { target_port: 4176 proxy_protocol: 1 } }",
        "invalid target port 4176: with PROXY protocol, two of a service must not differ by a multiple of 4096",
    ),
    (
        "endpoint { ports { target_port: 80 proxy_protocol: 1 } ports { target_port: 80 proxy_protocol: 2 } }",
        "invalid target port 80: with PROXY protocol, it has one version for all that publish it",
    ),
    (
        "endpoint { mode: MODE_DNSRR ports { target_port: 80 published_port: 8080 } }",
        "invalid published port 8080: endpoint mode dnsrr has no address to publish in ingress mode; …",
    ),
    ('depends_on { service: "web" }', "invalid dependency 'web': a service cannot depend on itself"),
    ('depends_on { service: "a.b" }', "invalid service name 'a.b': …"),
    ('depends_on { service: "a" condition: 9 }', "invalid dependency condition 9: allowed are started, healthy and …"),
    ('depends_on { service: "a" } depends_on { service: "a" }', "invalid dependency 'a': it is given twice"),
    ('annotations { labels { key: "a=b" value: "" } }', "invalid label key 'a=b': it must not be empty, nor contain …"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    with refused(InvalidArgument, said):
        check_service(spec_with(text))
    with pytest.raises(FlotaError) as caught:
        check_service(spec_with(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "service name is empty: it must have 1 to 63 characters (letters, digits, '-' and '_', …"),
        ("a" * 64, f"invalid service name '{'a' * 64}': it has 64 characters, at most 63 are allowed"),
        ("-web", "invalid service name '-web': allowed are letters, digits, '-' and '_', beginning and ending with …"),
        ("web-", "invalid service name 'web-': allowed are …"),
        ("web.1", "invalid service name 'web.1': allowed are …"),
        ("wéb", "invalid service name 'wéb': allowed are …"),
        ("web\n", "invalid service name 'web\\n': allowed are …"),
    ],
)
def test_names_that_are_none(name: str, said: str) -> None:
    with refused(InvalidArgument, said):
        check_service(spec_with("", name))


def test_a_name_that_would_take_very_long_to_match_does_not() -> None:
    """63 characters that almost are a name: a careless expression would try for ever."""
    with refused(InvalidArgument, "invalid service name …"):
        check_service(spec_with("", "a" + "-_" * 30 + "-"))
    with refused(InvalidArgument, "invalid image …"):
        check_service(spec_with(in_container(f'image: "{"a-" * 120}!"')))


def test_no_container_no_task() -> None:
    spec = ServiceSpec()
    spec.annotations.name = "web"
    with refused(InvalidArgument, "the task has no container: an image must be named"):
        check_service(spec)
    spec.task.container.SetInParent()
    with refused(InvalidArgument, "image is empty: name one, for example busybox:latest"):
        check_service(spec)


@pytest.mark.parametrize(
    "text",
    [
        in_container('image: "localhost:5000/Team.x/busybox:1.36-musl"').replace("Team.x", "team.x"),
        in_container(f'image: "busybox@sha256:{"0" * 64}"'),
        in_container('hostname: "{{.Node.Hostname}}-{{.Task.Slot}}"'),
        in_container('stop_signal: "SIGRTMIN+3"'),
        in_container('stop_signal: "int"'),
        in_container('mounts { type: TYPE_BIND source: "{{.Task.Slot}}" target: "/b" }'),
        in_container('capability_add: "ALL" capability_drop: "net_raw"'),
        in_container('healthcheck { test: "CMD-SHELL" test: "true" }'),
        in_container('hosts: "::1 six seven"'),
        in_task('placement { constraints: "node.labels.Disk != ssd" constraints: "node.ip==10.0.0.0/8" }'),
        in_task('placement { preferences { spread { descriptor: "node.labels.zone" } } }'),
        "replicated { replicas: 0 }",
        "replicated_job { total_completions: 10 max_concurrent: 2 }",
        "update { max_failure_ratio: 1 failure_action: FAILURE_ACTION_ROLLBACK order: ORDER_START_FIRST }",
        "endpoint { mode: MODE_DNSRR }",
    ],
)
def test_what_is_fine_is_fine(text: str) -> None:
    check_service(spec_with(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            in_container('mounts { target: "/b" type: TYPE_VOLUME volume_driver { name: "nfs" } }'),
            "volume driver 'nfs' …",
        ),
        (
            in_task('networks { target: "n" driver_options { key: "a" value: "b" } }'),
            "option 'a' of the attachment to network n is not supported: only stable-address is",
        ),
    ],
)
def test_what_docker_has_and_flota_has_not_is_told_so(text: str, said: str) -> None:
    with refused(Unsupported, said):
        check_service(spec_with(text))


STABLE = 'networks { target: "n" driver_options { key: "stable-address" value: "%s" } }'


def test_a_slot_may_keep_its_address() -> None:
    check_service(spec_with(in_task(STABLE % "") + "replicated { replicas: 3 }"))
    for text, said in (
        (in_task(STABLE % "maybe"), "invalid option stable-address 'maybe': no value, true or false is needed"),
        (
            in_task(STABLE % "true") + "update { order: ORDER_START_FIRST }",
            "invalid update order 'start-first': a task that keeps its address needs stop-first: two cannot have it",
        ),
        (in_task(STABLE % "") + "global {}", "only replicated services can have the network option stable-address"),
    ):
        with refused(InvalidArgument, said):
            check_service(spec_with(text))
