"""What a deploy would do, in a file's words."""

from typing import Any

import pytest
from hypothesis import assume, given

from flota.stacks.errors import ComposeError
from flota.stacks.plan import Plan, There, plan
from flota.stacks.translation.stack import Stack, translate
from flota.v1.objects_pb2 import Config, Network, Secret, Service
from flota.v1.service_defaults import with_defaults
from tests.unit.stacks.help import stack
from tests.unit.stacks.projects import CASES, Case
from tests.unit.stacks.test_properties import ENVIRONMENT, load, written
from tests.unit.stacks.trees import DOCUMENTS


def there(deployed: Stack) -> There:
    """What the cluster has after a stack was deployed: ids for names, defaults written out, secrets without data."""
    networks = {
        spec.annotations.name: Network(id=f"id-{spec.annotations.name}", spec=spec) for spec in deployed.networks
    }
    services = {}
    for spec in deployed.services:
        service = Service(id="s", spec=with_defaults(spec))
        for attachment in service.spec.task.networks:
            attachment.target = f"id-{attachment.target}"
        for secret in service.spec.task.container.secrets:
            secret.secret_id = "id"
        services[spec.annotations.name] = service
    secrets = {spec.annotations.name: Secret(spec=spec) for spec in deployed.secrets}
    configs = {spec.annotations.name: Config(spec=spec) for spec in deployed.configs}
    everything = {network.id: network for network in networks.values()}
    for kind, name in deployed.external:
        if kind == "network":
            everything[f"id-{name}"] = Network(id=f"id-{name}")
            everything[f"id-{name}"].spec.annotations.name = name
    return There(services, networks, secrets, configs, everything)


def between(old: str, new: str, **options: Any) -> Plan:
    return plan(stack(new), there(stack(old)), **options)


def web(keys: str) -> str:
    return f"services: {{web: {{image: 'x:1', {keys}}}}}\nvolumes: {{v: }}\nnetworks: {{n: }}"


def changes(old: str, new: str) -> tuple[list[tuple[str, str | None, str | None]], bool]:
    """What changes in service web between two sets of keys, and whether its tasks are replaced."""
    (step,) = [step for step in between(web(old), web(new)).changes if step.kind == "service"]
    assert step.action == "change"
    return [(change.key, change.old, change.new) for change in step.changes], step.restarts


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_equal_files_differ_in_nothing(case: Case) -> None:
    wanted = translate(case.load(), "shop")
    made = plan(wanted, there(wanted))
    assert made.changes == []
    assert {step.action for step in made.steps} == {"same"}


@given(DOCUMENTS)
def test_nor_do_files_that_nobody_wrote(tree: Any) -> None:
    from flota.stacks.compose.loading import Source

    try:
        wanted = translate(load([Source("c.yml", written(tree))], "/nowhere", ENVIRONMENT, name="s"), "s")
    except ComposeError:
        assume(False)
    assert plan(wanted, there(wanted)).changes == []


def test_everything_is_created_where_there_is_nothing() -> None:
    text = (
        "services: {b: {image: x, secrets: [s], configs: [c]}, a: {image: y}}\n"
        "secrets: {s: {content: x}}\nconfigs: {c: {content: y}}"
    )
    made = plan(stack(text), There())
    assert [(step.kind, step.name, step.action) for step in made.steps] == [
        ("network", "s_default", "create"), ("secret", "s_s", "create"), ("config", "s_c", "create"),
        ("service", "s_a", "create"), ("service", "s_b", "create"),
    ]  # fmt: skip
    assert {change.key: change.new for change in made.steps[3].changes}["image"] == "y"


@pytest.mark.parametrize(
    ("old", "new", "expected", "restarts"),
    [
        ("environment: {A: 1, B: 1}", "environment: {A: 2, C: 3}",
         [("environment.A", "1", "2"), ("environment.B", "1", None), ("environment.C", None, "3")], True),
        ("deploy: {replicas: 2}", "deploy: {replicas: 3}", [("deploy.replicas", "2", "3")], False),
        ("", "deploy: {update_config: {delay: 5s}}", [("deploy.update_config.delay", None, "5s")], False),
        ("", "deploy: {labels: {a: b}}", [("deploy.labels.a", None, "b")], False),
        ("", "labels: {a: b}", [("labels.a", None, "b")], True),
        ("", "deploy: {placement: {constraints: [node.role==worker]}}",
         [("deploy.placement.constraints", None, '["node.role==worker"]')], False),
        ("command: [a, b]", "command: [a, c]", [("command", '["a", "b"]', '["a", "c"]')], True),
        ("ports: ['80:80']", "ports: ['80:80', '53:53/udp']",
         [("ports[53:53/udp].mode", None, "ingress"), ("ports[53:53/udp].protocol", None, "udp"),
          ("ports[53:53/udp].published", None, "53"), ("ports[53:53/udp].target", None, "53")], True),
        ("volumes: [v:/a]", "volumes: [v:/a:ro]", [("volumes[/a].read_only", None, "true")], True),
        ("mem_limit: 64m", "mem_limit: 128m", [("deploy.resources.limits.memory", "67108864", "134217728")], True),
        ("stop_grace_period: 10s", "stop_grace_period: 20s", [("stop_grace_period", None, "20s")], True),
        ("networks: [default]", "networks: [default, n]",
         [("networks.s_n", None, "{}")], True),
        ("healthcheck: {test: a}", "healthcheck: {disable: true}",
         [("healthcheck.disable", None, "true"), ("healthcheck.test", '["CMD-SHELL", "a"]', None)], True),
    ],
)  # fmt: skip
def test_what_changes_is_said_key_by_key(old: str, new: str, expected: list[Any], restarts: bool) -> None:
    assert changes(old, new) == (expected, restarts)


def test_an_image_that_changes() -> None:
    made = between("services: {web: {image: 'x:1'}}", "services: {web: {image: 'x:2'}}")
    (step,) = made.changes
    assert [(each.key, each.old, each.new) for each in step.changes] == [("image", "x:1", "x:2")]
    assert step.restarts


def test_a_pinned_image_stays_when_that_is_asked() -> None:
    wanted = stack("services: {web: {image: 'x:1'}}")
    present = there(wanted)
    present.services["s_web"].spec.task.container.image = "x:1@sha256:" + "a" * 64
    present.services["s_web"].spec.task.force_update = 3
    assert plan(wanted, present, resolve_image="changed").changes == []
    (step,) = plan(wanted, present).changes
    assert [change.key for change in step.changes] == ["image"]


def test_what_is_no_longer_in_the_files() -> None:
    old = (
        "services: {a: {image: x}, b: {image: x, secrets: [s], networks: [n]}}\n"
        "secrets: {s: {content: x}}\nnetworks: {n: }"
    )
    new = "services: {a: {image: x}}"
    made = between(old, new)
    assert made.changes == []
    assert [(step.kind, step.name) for step in made.steps if step.action == "keep"] == [
        ("service", "s_b"), ("network", "s_n"), ("secret", "s_s"),
    ]  # fmt: skip
    assert [(step.kind, step.name, step.action) for step in between(old, new, prune=True).changes] == [
        ("service", "s_b", "remove"), ("network", "s_n", "remove"), ("secret", "s_s", "remove"),
    ]  # fmt: skip


def test_what_cannot_change_is_refused_or_kept() -> None:
    old = (
        "services: {a: {image: x, networks: [n], secrets: [s]}}\n"
        "networks: {n: }\nconfigs: {c: {content: x}}\nsecrets: {s: {content: x}}"
    )
    new = old.replace("{n: }", "{n: {internal: true}}").replace(
        "configs: {c: {content: x}}", "configs: {c: {content: y}}"
    )
    made = between(old, new, same_secret=lambda secret, spec: False)
    assert [(step.kind, step.action, step.note) for step in made.steps if step.action != "same"] == [
        ("network", "keep", "it stays as it is, although the file says something else about internal"),
        ("secret", "change", "its content differs: s_s.2 is made of it"),
        ("config", "change", "its content differs: s_c.2 is made of it"),
        ("service", "change", ""),
    ]
    config, service = (step for step in made.steps if step.kind in ("config", "service"))
    assert [(each.key, each.old, each.new) for each in config.changes] == [("content", "x", "y")]
    assert [(each.key, each.old, each.new) for each in service.changes] == [("secrets[s].source", "s_s", "s_s.2")]
    assert service.restarts
    made = between("services: {a: {image: x}}", "services: {a: {image: x, deploy: {mode: global}}}")
    assert [(step.action, step.changes[0].old, step.changes[0].new) for step in made.changes] == [
        ("refuse", "replicated", "global")
    ]
