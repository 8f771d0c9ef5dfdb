"""Specs back to a file: deployed again, the file says what the specs say."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given

from flota.stacks.compose.loading import Source, load
from flota.stacks.compose.writing import to_yaml
from flota.stacks.errors import ComposeError
from flota.stacks.translation.exporting import Exported, export
from flota.stacks.translation.stack import Stack, translate
from flota.v1.objects_pb2 import Config, Network
from flota.v1.service_defaults import with_defaults
from flota.v1.specs_pb2 import ServiceSpec
from tests.unit.stacks.help import stack
from tests.unit.stacks.projects import CASES, FILES, Case
from tests.unit.stacks.test_properties import ENVIRONMENT, written
from tests.unit.stacks.trees import DOCUMENTS


def stored(wanted: Stack) -> tuple[list[ServiceSpec], dict[str, Network], dict[str, Config]]:
    """What the cluster would have of a stack: defaults written out, networks known by their ids."""
    networks = {
        f"id-{spec.annotations.name}": Network(id=f"id-{spec.annotations.name}", spec=spec) for spec in wanted.networks
    }
    for kind, name in wanted.external:
        if kind == "network":
            networks[f"id-{name}"] = Network(id=f"id-{name}")
            networks[f"id-{name}"].spec.annotations.name = name
    services = [with_defaults(spec) for spec in wanted.services]
    for spec in services:
        for attachment in spec.task.networks:
            attachment.target = f"id-{attachment.target}"
    configs = {spec.annotations.name: Config(spec=spec) for spec in wanted.configs}
    return services, networks, configs


def exported(wanted: Stack) -> Exported:
    return export(wanted.name, *stored(wanted))


def by_name(specs: Sequence[Any]) -> dict[str, Any]:
    return {spec.annotations.name: spec for spec in specs}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_is_exported_means_the_same(case: Case) -> None:
    wanted = translate(case.load(), "shop")
    text = to_yaml(exported(wanted).tree)
    again = translate(load([Source("exported", text)], str(FILES), {}), "shop")
    assert by_name([with_defaults(spec) for spec in again.services]) == by_name(
        [with_defaults(spec) for spec in wanted.services]
    )
    assert by_name(again.networks) == by_name(wanted.networks)
    assert by_name(again.configs) == by_name(wanted.configs)
    assert again.secrets == []
    assert {("secret", spec.annotations.name) for spec in wanted.secrets if used(wanted, spec.annotations.name)} <= set(
        again.external
    )
    assert again.warnings == []


@given(DOCUMENTS)
def test_so_are_files_that_nobody_wrote(tree: Any) -> None:
    try:
        wanted = translate(load([Source("c.yml", written(tree))], "/nowhere", ENVIRONMENT, name="s"), "s")
    except ComposeError:
        assume(False)
    text = to_yaml(exported(wanted).tree)
    again = translate(load([Source("exported", text)], "/elsewhere", {}), "s")
    assert by_name([with_defaults(spec) for spec in again.services]) == by_name(
        [with_defaults(spec) for spec in wanted.services]
    )
    assert by_name(again.networks) == by_name(wanted.networks)


def used(wanted: Stack, secret: str) -> bool:
    return any(each.secret_name == secret for spec in wanted.services for each in spec.task.container.secrets)


def test_what_is_exported_says_nothing_that_goes_without_saying() -> None:
    text = (
        "services: {web: {image: x, ports: ['80:80'], secrets: [s], volumes: [v:/v]}}\n"
        "secrets: {s: {content: x}}\nvolumes: {v: }"
    )
    assert exported(stack(text)).tree == {
        "name": "s",
        "services": {
            "web": {
                "image": "x",
                "deploy": {"replicas": 1},
                "ports": [{"target": 80, "published": "80", "protocol": "tcp", "mode": "ingress"}],
                "secrets": [{"source": "s"}],
                "volumes": [{"type": "volume", "source": "v", "target": "/v"}],
            }
        },
        "secrets": {"s": {"external": True, "name": "s_s"}},
        "volumes": {"v": {}},
    }


def test_what_compose_has_no_word_for_is_told() -> None:
    wanted = stack("services: {web: {image: x}}")
    wanted.services[0].task.force_update = 1
    wanted.services[0].task.placement.platforms.add(os="linux", architecture="amd64")
    wanted.services[0].task.placement.platforms.add(os="linux", architecture="arm64")
    assert exported(wanted).warnings == [
        "service web: Compose has no word for it: it has several platforms",
        "service web: Compose has no word for it: it was updated with --force",
    ]


def test_configs_that_are_not_text_are_external() -> None:
    wanted = stack("services: {web: {image: x, configs: [c]}}\nconfigs: {c: {content: x}}")
    wanted.configs[0].data = b"\xff"
    made = exported(wanted)
    assert made.tree["configs"] == {"c": {"external": True, "name": "s_c"}}
    assert made.warnings == ["config s_c: it is not text, so the file names it as external"]
