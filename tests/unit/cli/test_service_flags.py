"""Flags of `service create` and `update`: what each one writes into the spec, and what it refuses. No daemon needed."""

from pathlib import Path
from typing import Any

import click
import pytest
from google.protobuf import text_format

from flota.cli.commands.service_create import _environment, create
from flota.cli.commands.service_update import update
from flota.cli.failures import BadFlag
from flota.cli.service.flags import changed_spec, spec_of_flags
from flota.v1.specs_pb2 import ServiceSpec

ONE = "replicated { replicas: 1 }"


def created(*argv: str, warnings: list[str] | None = None) -> ServiceSpec:
    """The spec of `service create ARGV busybox`."""
    flags = create.make_context("create", [*argv, "busybox"]).params
    image, arguments = flags.pop("image"), flags.pop("arguments")
    flags["env"] = _environment(flags)
    return spec_of_flags(image, arguments, flags, warnings if warnings is not None else [])


def updated(before: ServiceSpec, *argv: str, networks: dict[str, str] | None = None) -> ServiceSpec:
    """The spec after `service update ARGV web`."""
    flags: dict[str, Any] = update.make_context("update", [*argv, "web"]).params
    return changed_spec(before, flags, networks or {}, [])


def spec(text: str, mode: str = ONE) -> ServiceSpec:
    """busybox, with what `text` (protobuf's text form) says."""
    made = ServiceSpec()
    text_format.Merge(f'{mode} task {{ container {{ image: "busybox" }} }}', made)
    text_format.Merge(text, made)
    return made


def in_container(text: str) -> str:
    return f"task {{ container {{ {text} }} }}"


def in_task(text: str) -> str:
    return f"task {{ {text} }}"


CREATE: list[tuple[str, str]] = [
    ("--name web", 'annotations { name: "web" }'),
    ("--label a=b --label c", 'annotations { labels { key: "a" value: "b" } labels { key: "c" value: "" } }'),
    ("--container-label a=b=c", in_container('labels { key: "a" value: "b=c" }')),
    ("-e A=1 --env B=x=y", in_container('env: "A=1" env: "B=x=y"')),
    ("--hostname h-{{.Task.Slot}}", in_container('hostname: "h-{{.Task.Slot}}"')),
    ("-w /srv -u 1000:1000 --group audio", in_container('dir: "/srv" user: "1000:1000" groups: "audio"')),
    ("-t -i --read-only --init", in_container("tty: true open_stdin: true read_only: true init: true")),
    (
        "--no-new-privileges --seccomp unconfined",
        in_container("no_new_privileges: true seccomp_unconfined: true"),
    ),
    ("--stop-signal SIGINT", in_container('stop_signal: "SIGINT"')),
    ("--stop-grace-period 1m30s", in_container("stop_grace_period { seconds: 90 }")),
    (
        "--limit-cpu .5 --limit-memory 64m",
        in_task("resources { limits { nano_cpus: 500000000 memory_bytes: 67108864 } }"),
    ),
    (
        "--reserve-cpu 2 --reserve-memory 1g",
        in_task("resources { reservations { nano_cpus: 2000000000 memory_bytes: 1073741824 } }"),
    ),
    ("--limit-pids 100", in_task("resources { pids_limit: 100 }")),
    (
        "--memory-swap 1g --memory-swappiness 0",
        in_task("resources { memory_swap_bytes: 1073741824 memory_swappiness: 0 }"),
    ),
    ("--memory-swap=-1 --memory-swappiness=-1", in_task("resources { memory_swap_bytes: -1 }")),
    ("--oom-score-adj=-500", in_container("oom_score_adj: -500")),
    ("--generic-resource gpu=2", in_task('resources { reservations { generic { kind: "gpu" count: 2 } } }')),
    ("--restart-condition on-failure", in_task("restart { condition: CONDITION_ON_FAILURE }")),
    ("--restart-delay 0s --restart-max-attempts 3", in_task("restart { delay { } max_attempts: 3 }")),
    ("--restart-window 2m", in_task("restart { window { seconds: 120 } }")),
    ("--constraint node.role==manager", in_task('placement { constraints: "node.role==manager" }')),
    (
        "--placement-pref spread=node.labels.zone",
        in_task('placement { preferences { spread { descriptor: "node.labels.zone" } } }'),
    ),
    ("--replicas-max-per-node 2", in_task("placement { max_replicas: 2 }")),
    ("--network back", in_task('networks { target: "back" }')),
    (
        "--network name=back,alias=DB,alias=x,ip=10.0.0.9",
        in_task('networks { target: "back" aliases: ["db", "x"] addresses: "10.0.0.9" }'),
    ),
    ("--endpoint-mode dnsrr", "endpoint { mode: MODE_DNSRR }"),
    ("-p 8080:80", "endpoint { ports { target_port: 80 published_port: 8080 } }"),
    ("-p 53:53/udp", "endpoint { ports { target_port: 53 published_port: 53 protocol: PROTOCOL_UDP } }"),
    ("-p 80", "endpoint { ports { target_port: 80 } }"),
    (
        "-p 3000-3001:4000-4001",
        "endpoint { ports { target_port: 4000 published_port: 3000 } "
        "ports { target_port: 4001 published_port: 3001 } }",
    ),
    (
        "--publish published=8080,target=80,mode=host,protocol=sctp",
        "endpoint { ports { target_port: 80 published_port: 8080 protocol: PROTOCOL_SCTP "
        "publish_mode: PUBLISH_MODE_HOST } }",
    ),
    (
        "--mount type=bind,src=/a,dst=/b,readonly",
        in_container('mounts { type: TYPE_BIND source: "/a" target: "/b" read_only: true }'),
    ),
    (
        "--mount type=volume,source=v,target=/b,volume-nocopy,volume-label=a=b",
        'task { container { mounts { type: TYPE_VOLUME source: "v" target: "/b" volume_nocopy: true '
        'volume_labels { key: "a" value: "b" } } } }',
    ),
    (
        "--mount type=tmpfs,target=/b,tmpfs-size=1m,tmpfs-mode=700",
        in_container('mounts { type: TYPE_TMPFS target: "/b" tmpfs_size_bytes: 1048576 tmpfs_mode: 448 }'),
    ),
    (
        "--secret key",
        in_container('secrets { secret_name: "key" file { name: "key" uid: "0" gid: "0" mode: 292 } }'),
    ),
    (
        "--config source=c,target=/etc/c,uid=1,gid=2,mode=0400",
        in_container('configs { config_name: "c" file { name: "/etc/c" uid: "1" gid: "2" mode: 256 } }'),
    ),
    ("--cap-add net_admin --cap-drop ALL", in_container('capability_add: "CAP_NET_ADMIN" capability_drop: "ALL"')),
    (
        "--device /dev/fuse --device /dev/sda:/dev/disk:r --device /dev/kvm:rw",
        in_container(
            'devices { source: "/dev/fuse" } devices { source: "/dev/sda" target: "/dev/disk" permissions: "r" } '
            'devices { source: "/dev/kvm" permissions: "rw" }'
        ),
    ),
    (
        "--ulimit nofile=10:20 --ulimit core=-1",
        in_container('ulimits { name: "nofile" soft: 10 hard: 20 } ulimits { name: "core" soft: -1 hard: -1 }'),
    ),
    ("--sysctl net.core.somaxconn=1", in_container('sysctls { key: "net.core.somaxconn" value: "1" }')),
    ("--host db:10.0.0.5", in_container('hosts: "10.0.0.5 db"')),
    (
        "--dns 1.1.1.1 --dns-search a.b --dns-option ndots:2",
        in_container('dns { nameservers: "1.1.1.1" search: "a.b" options: "ndots:2" }'),
    ),
    (
        "--log-driver json-file --log-opt max-size=1m",
        in_task('log_driver { name: "json-file" options { key: "max-size" value: "1m" } }'),
    ),
    ("--health-cmd true --health-retries 2", in_container('healthcheck { test: ["CMD-SHELL", "true"] retries: 2 }')),
    (
        "--health-interval 1s --health-start-period 2s",
        in_container("healthcheck { interval { seconds: 1 } start_period { seconds: 2 } }"),
    ),
    (
        "--health-cmd true --health-action unready",
        in_container('healthcheck { test: "CMD-SHELL" test: "true" action: ACTION_UNREADY }'),
    ),
    ("--rebalance on-join", "rebalance: REBALANCE_POLICY_ON_JOIN"),
    ("--strategy binpack", in_task("placement { strategy: PLACEMENT_STRATEGY_BINPACK }")),
    (
        "--depends-on db --depends-on job:completed",
        'depends_on { service: "db" condition: CONDITION_HEALTHY } '
        'depends_on { service: "job" condition: CONDITION_COMPLETED }',
    ),
    ("--no-healthcheck", in_container('healthcheck { test: "NONE" }')),
    ("--update-parallelism 0", "update { parallelism: 0 }"),
    ("--update-delay 10s", "update { parallelism: 1 delay { seconds: 10 } }"),
    (
        "--update-failure-action rollback --update-order start-first --update-max-failure-ratio .5",
        "update { parallelism: 1 failure_action: FAILURE_ACTION_ROLLBACK order: ORDER_START_FIRST "
        "max_failure_ratio: 0.5 }",
    ),
    (
        "--rollback-monitor 1s --rollback-failure-action continue",
        "rollback { parallelism: 1 monitor { seconds: 1 } failure_action: FAILURE_ACTION_CONTINUE }",
    ),
    ("--entrypoint /bin/sh", in_container('command: "/bin/sh"')),
]


@pytest.mark.parametrize(("argv", "text"), CREATE)
def test_create_writes_what_was_said(argv: str, text: str) -> None:
    assert created(*argv.split()) == spec(text)


def test_every_flag_of_create_is_tested() -> None:
    said = " ".join(argv for argv, _ in CREATE)
    untested = {
        option.opts[-1]
        for option in create.params
        if isinstance(option, click.Option) and not option.hidden and not any(flag in said for flag in option.opts)
    }
    # Modes have a test of their own; the others say how to work, not what the service shall be.
    manners = {
        "--detach", "--timeout", "--quiet", "--format", "--with-registry-auth", "--no-resolve-image", "--isolation",
    }  # fmt: skip
    others = {"--mode", "--replicas", "--max-concurrent", "--env-file", "--health-timeout", "--health-start-interval"}
    assert untested - manners - others == {"--rollback-parallelism", "--rollback-delay", "--rollback-order",
                                           "--rollback-max-failure-ratio", "--update-monitor"}  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "mode"),
    [
        ("", "replicated { replicas: 1 }"),
        ("--replicas 0", "replicated { replicas: 0 }"),
        ("--mode global", "global { }"),
        ("--mode replicated-job", "replicated_job { total_completions: 1 max_concurrent: 1 }"),
        ("--mode replicated-job --replicas 5", "replicated_job { total_completions: 5 max_concurrent: 5 }"),
        (
            "--mode replicated-job --replicas 5 --max-concurrent 2",
            "replicated_job { total_completions: 5 max_concurrent: 2 }",
        ),
        ("--mode GLOBAL-JOB", "global_job { }"),
    ],
)
def test_modes(argv: str, mode: str) -> None:
    assert created(*argv.split()) == spec("", mode)


def test_arguments_of_the_container_are_its_own() -> None:
    flags = create.make_context("create", ["--name", "web", "busybox", "ls", "--name", "-l", "--", "-x"]).params
    assert flags["arguments"] == ("ls", "--name", "-l", "--", "-x")
    assert flags["name"] == "web"


def test_env_files_come_before_env_and_take_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "yes")
    monkeypatch.delenv("NOT_MINE", raising=False)
    file = tmp_path / "env"
    file.write_text("# a comment\nA=1\n\n  B=two words\nMINE\nNOT_MINE\n")
    made = created("--env-file", str(file), "--env", "A=2", "--env", "MINE")
    assert list(made.task.container.env) == ["A=2", "B=two words", "MINE=yes"]
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadFlag, match="invalid --env-file: it is not text in UTF-8"):
        created("--env-file", str(file))


def test_an_address_to_publish_on_is_warned_of() -> None:
    warnings: list[str] = []
    created("-p", "127.0.0.1:8080:80", warnings=warnings)
    assert warnings == [
        "port 127.0.0.1:8080:80: the address 127.0.0.1 is ignored, every node listens on all of its addresses"
    ]


BAD = [
    ("--mode single", "invalid --mode 'single': one of replicated, global, replicated-job, global-job is needed"),
    (
        "--mode globl",
        "invalid --mode 'globl': one of replicated, global, replicated-job, global-job is needed; did you",
    ),
    ("--replicas -1", "invalid --replicas -1: it cannot be negative"),
    ("--mode global --replicas 2", "--replicas can only be used with --mode replicated or replicated-job, not global"),
    ("--max-concurrent 2", "--max-concurrent can only be used with --mode replicated-job, not replicated"),
    ("--limit-cpu x", "invalid --limit-cpu 'x': a number of CPUs such as 0.5 or 2 is needed"),
    ("--limit-cpu nan", "invalid --limit-cpu 'nan': a number of CPUs"),
    ("--limit-memory 64q", "invalid --limit-memory '64q': a size such as 512k, 64m or 1g is needed"),
    ("--limit-pids=-1", "invalid --limit-pids -1: it cannot be negative"),
    ("--memory-swappiness 101", "invalid --memory-swappiness 101: 0 to 100 is needed"),
    ("--restart-condition always", "invalid --restart-condition 'always': one of none, on-failure, any is needed"),
    ("--restart-delay 5", "invalid --restart-delay '5': a duration such as 10s, 1m30s or 500ms is needed"),
    ("--update-order first", "invalid --update-order 'first': one of stop-first, start-first is needed"),
    ("--rollback-failure-action rollback", "invalid --rollback-failure-action 'rollback': one of pause, continue is"),
    ("--update-max-failure-ratio 2", "invalid --update-max-failure-ratio 2.0: a share from 0 to 1 is needed"),
    ("--env =x", "invalid --env '=x': KEY=VALUE or KEY is needed, without spaces in KEY"),
    ("--label =x", "invalid --label '=x': KEY=VALUE is needed"),
    ("--publish 80:", "invalid --publish '80:': [PUBLISHED:]TARGET[/tcp|udp|sctp] is needed"),
    ("--publish 70000:80", "invalid --publish '70000:80': '70000' is not a port from 0 to 65535"),
    ("--publish 1-2:1-3", "invalid --publish '1-2:1-3': both ranges of ports must have the same length"),
    ("--publish target=80,mode=both", "invalid --publish 'target=80,mode=both': the mode 'both' is not one of ingress"),
    (
        "--publish target=80,publish=1",
        "invalid --publish 'target=80,publish=1': the key 'publish' is not known; did you",
    ),
    ("--mount type=bind,target=/b", "invalid --mount 'type=bind,target=/b': a bind mount needs source=PATH"),
    ("--mount type=disk,target=/b", "invalid --mount 'type=disk,target=/b': the type 'disk' is not one of bind"),
    (
        "--mount type=bind,src=/a,dst=/b,bind-recursive=disable",
        "invalid --mount 'type=bind,src=/a,dst=/b,bind-recursive=disable': bind-recursive=disable is not one of",
    ),
    ("--mount target=b", "invalid --mount 'target=b': the target 'b' must be an absolute path in the container"),
    ("--mount type=tmpfs,target=/b,volume-nocopy", "invalid --mount 'type=tmpfs,target=/b,volume-nocopy': volume-… op"),
    ("--network name=", "invalid --network 'name=': 'name=' must be key=value"),
    ("--secret source=", "invalid --secret 'source=': 'source=' must be key=value"),
    ("--config mode=9,source=c", "invalid --config 'mode=9,source=c': '9' is not an octal mode such as 0444"),
    ("--device fuse", "invalid --device 'fuse': HOST-PATH[:CONTAINER-PATH][:rwm] is needed"),
    ("--device /dev/fuse:rx", "invalid --device '/dev/fuse:rx': HOST-PATH"),
    ("--device /dev/fuse:", "invalid --device '/dev/fuse:': HOST-PATH"),
    ("--ulimit nofile", "invalid --ulimit 'nofile': NAME=SOFT[:HARD] is needed"),
    ("--ulimit nofile=2:1", "invalid --ulimit 'nofile=2:1': the soft limit is above the hard one"),
    ("--host db", "invalid --host 'db': HOST:ADDRESS is needed"),
    ("--dns one.one", "invalid --dns 'one.one': an IP address is needed"),
    ("--cap-add net-admin", "invalid --cap-add 'net-admin': a capability such as NET_ADMIN is needed"),
    ("--constraint node.role=manager", "invalid --constraint 'node.role=manager': KEY==VALUE or KEY!=VALUE is needed"),
    ("--placement-pref zone", "invalid --placement-pref 'zone': spread=node.labels.KEY or"),
    ("--generic-resource gpu", "invalid --generic-resource 'gpu': KIND=COUNT is needed"),
    ("--entrypoint 'x", 'invalid --entrypoint "\'x": it cannot be split into words (no closing quotation)'),
    ("--no-healthcheck --health-cmd x", "--no-healthcheck conflicts with --health-cmd"),
    ("--health-retries=-1", "invalid --health-retries -1: it cannot be negative"),
    ("--sysctl a", "invalid --sysctl 'a': KEY=VALUE is needed"),
    ("--log-opt a", "invalid --log-opt 'a': KEY=VALUE is needed"),
]


@pytest.mark.parametrize(("argv", "said"), BAD)
def test_a_bad_value_is_one_line_with_flag_value_and_what_is_allowed(argv: str, said: str) -> None:
    with pytest.raises(BadFlag) as caught:
        created(*argv.split())
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 125


BEFORE = """
annotations { name: "web" labels { key: "a" value: "1" } labels { key: "b" value: "2" } }
update { parallelism: 3 }
endpoint { ports { target_port: 80 published_port: 8080 } ports { target_port: 443 published_port: 8443 } }
task {
  container {
    env: "A=1" env: "B=2" args: "old" user: "me"
    mounts { type: TYPE_TMPFS target: "/t" } hosts: "10.0.0.5 db" capability_add: "CAP_NET_ADMIN"
    secrets { secret_id: "s1" secret_name: "key" file { name: "key" } }
    healthcheck { test: "NONE" }
  }
  networks { target: "n1" } networks { target: "n2" }
  placement { constraints: "node.role == worker" constraints: "node.labels.a==b" }
  resources { reservations { generic { kind: "gpu" count: 1 } } }
}
"""


@pytest.mark.parametrize(
    ("argv", "read"),
    [
        ("--image busybox:2", lambda s: s.task.container.image == "busybox:2"),
        ("--args 'new|args'", lambda s: list(s.task.container.args) == ["new|args"]),
        ("--label-add a=x --label-rm b", lambda s: dict(s.annotations.labels) == {"a": "x"}),
        ("--env-add B=3 --env-add C=4 --env-rm A", lambda s: list(s.task.container.env) == ["B=3", "C=4"]),
        ("--publish-rm 80", lambda s: [each.target_port for each in s.endpoint.ports] == [443]),
        (
            "--publish-add 9090:80 --publish-rm 443/tcp",
            lambda s: {(p.published_port, p.target_port) for p in s.endpoint.ports} == {(8080, 80), (9090, 80)},
        ),
        ("--mount-rm /t", lambda s: not s.task.container.mounts),
        (
            "--mount-add type=tmpfs,target=/t,tmpfs-size=1k",
            lambda s: [m.tmpfs_size_bytes for m in s.task.container.mounts] == [1024],
        ),
        ("--secret-rm key", lambda s: not s.task.container.secrets),
        (
            "--secret-add source=other,target=key",
            lambda s: [each.secret_name for each in s.task.container.secrets] == ["other"],
        ),
        ("--network-rm front --network-add back", lambda s: [each.target for each in s.task.networks] == ["n2", "n3"]),
        ("--constraint-rm node.role==worker", lambda s: list(s.task.placement.constraints) == ["node.labels.a==b"]),
        ("--host-rm db:10.0.0.5", lambda s: not s.task.container.hosts),
        (
            "--cap-drop NET_ADMIN",
            lambda s: not s.task.container.capability_add and not s.task.container.capability_drop,
        ),
        ("--generic-resource-rm gpu", lambda s: not s.task.resources.reservations.generic),
        ("--health-cmd true", lambda s: list(s.task.container.healthcheck.test) == ["CMD-SHELL", "true"]),
        ("--user=", lambda s: s.task.container.user == ""),
        ("--force", lambda s: s.task.force_update == 1),
        ("--replicas 7", lambda s: s.replicated.replicas == 7),
        ("--update-delay 1s", lambda s: (s.update.parallelism, s.update.delay.seconds) == (3, 1)),
        ("--read-only --no-init", lambda s: s.task.container.read_only),
        ("--no-new-privileges", lambda s: s.task.container.no_new_privileges),
    ],
)
def test_update_changes_what_is_named(argv: str, read: Any) -> None:
    import shlex

    before = spec(BEFORE)
    kept = before.SerializeToString(deterministic=True)
    after = updated(before, *shlex.split(argv), networks={"front": "n1", "back": "n3"})
    assert read(after), after
    assert before.SerializeToString(deterministic=True) == kept, "the spec that was read is not changed"


def test_update_without_flags_changes_nothing() -> None:
    assert updated(spec(BEFORE)) == spec(BEFORE)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--mount-rm /x", "--mount-rm '/x': the service does not have it"),
        ("--network-rm x", "--network-rm 'x': the service does not have it"),
        ("--max-concurrent 1", "--max-concurrent can only be used with replicated-job mode"),
        ("--replicas=-1", "invalid number of replicas -1: it cannot be negative"),
    ],
)
def test_updates_that_cannot_be(argv: str, said: str) -> None:
    with pytest.raises(BadFlag, match=f"^{said}$"):
        updated(spec(BEFORE), *argv.split())
