"""`stack config` of whole projects, against what is written down in golden/ (FLOTA_GOLDEN=1 writes it anew).

The same projects, as specs, must be what the control API takes: the server's own rules are asked.
"""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from flota.manager.control.files import CONFIG, SECRET, check_file_spec
from flota.manager.control.network_rules import check_network
from flota.manager.control.service_rules import check_service
from flota.rpc.errors import Unsupported
from flota.stacks.compose.loading import Source, load
from flota.stacks.compose.writing import to_yaml
from flota.stacks.translation.stack import translate
from tests.unit.stacks.projects import CASES, FILES, GOLDEN, Case

by_name = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@by_name
def test_config_is_what_is_written_down(case: Case) -> None:
    project = case.load()
    stack = translate(project, "shop")
    text = to_yaml(project.tree) + "".join(f"# Warning: {warning}\n" for warning in stack.warnings)
    text = text.replace(str(FILES), "FILES")
    golden = GOLDEN / f"{case.name}.yml"
    if os.environ.get("FLOTA_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_nothing_is_written_down_that_is_not_compared() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == {case.name for case in CASES}


@by_name
def test_config_of_config_is_the_same(case: Case) -> None:
    once = to_yaml(case.load().tree)
    again = load([Source("config", once)], str(FILES), case.environment, name="shop")
    assert to_yaml(again.tree) == once
    assert not again.warnings


@by_name
def test_config_means_the_same_as_the_files(case: Case) -> None:
    project = case.load()
    again = load([Source("config", to_yaml(project.tree))], str(FILES), case.environment, name="shop")
    first, second = translate(project, "shop"), translate(again, "shop")
    assert {each.annotations.name: each for each in second.services} == {
        each.annotations.name: each for each in first.services
    }
    assert second.secrets == first.secrets
    assert second.configs == first.configs


@by_name
def test_the_control_api_takes_it(case: Case) -> None:
    stack = translate(case.load(), "shop")
    for service in stack.services:
        # Ports are refused only because flota has no mesh yet; everything else has been looked at before that.
        with suppress(Unsupported):
            check_service(service)
    for network in stack.networks:
        with suppress(Unsupported):
            check_network(network)
    for secret in stack.secrets:
        check_file_spec(SECRET, secret)
    for config in stack.configs:
        check_file_spec(CONFIG, config)


def test_the_example_is_taken_whole(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "stacks/examples/microservices/compose.yml"
    stack = translate(load([Source("compose.yml", example.read_text())], str(example.parent), {}), "shop")
    assert [service.annotations.name for service in stack.services]
    assert stack.warnings == []
    for service in stack.services:
        check_service(service)
