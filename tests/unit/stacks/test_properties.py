"""What is true of every file: never a traceback, config of config is the same, and what we take the cluster takes."""

import io
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from flota.manager.control.container_rules import check_file
from flota.manager.control.network_rules import check_network
from flota.manager.control.service_rules import check_service
from flota.rpc.errors import Unsupported
from flota.stacks.compose.loading import Source, load
from flota.stacks.compose.merging import merge
from flota.stacks.compose.reading import read_document
from flota.stacks.compose.tree import Map, copy
from flota.stacks.compose.writing import to_yaml
from flota.stacks.errors import ComposeError
from flota.stacks.translation.stack import Stack, translate
from tests.unit.stacks.help import plain
from tests.unit.stacks.trees import ANYTHING, DOCUMENTS, NEARLY, NOISE

ENVIRONMENT = {"X": "x"}


def written(tree: Any) -> str:
    """Any tree as YAML, by another writer than ours."""
    yaml = YAML(typ="safe", pure=True)
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def loaded(*texts: str) -> Stack:
    project = load([Source("c.yml", text) for text in texts], "/nowhere", ENVIRONMENT, name="s")
    return translate(project, "s")


def only_compose_errors(*texts: str) -> None:
    """Loads them, or is refused in one line."""
    said = "x"
    try:
        loaded(*texts)
    except ComposeError as error:
        said = str(error)
    assert said.strip()
    assert "\n" not in said


@given(NOISE)
def test_noise_is_refused_in_one_line(text: str) -> None:
    only_compose_errors(text)


@given(NEARLY)
def test_files_that_are_nearly_right_never_end_in_a_traceback(tree: Any) -> None:
    only_compose_errors(written(tree))


@given(DOCUMENTS, NEARLY)
def test_nor_do_two_of_them(one: Any, two: Any) -> None:
    only_compose_errors(written(one), written(two))


@given(DOCUMENTS, NEARLY)
def test_nor_without_variables(one: Any, two: Any) -> None:
    with suppress(ComposeError):
        sources = [Source("c.yml", written(tree)) for tree in (one, two)]
        to_yaml(load(sources, "/nowhere", {}, with_variables=False).tree, escape=False)


@given(DOCUMENTS)
def test_config_of_config_is_the_same_and_means_the_same(tree: Any) -> None:
    text = written(tree)
    try:
        project = load([Source("c.yml", text)], "/nowhere", ENVIRONMENT, name="s")
        stack = translate(project, "s")
    except ComposeError:
        assume(False)
    once = to_yaml(project.tree)
    again = load([Source("config", once)], "/elsewhere", {}, name="s")
    assert to_yaml(again.tree) == once
    second = translate(again, "s")
    assert {each.annotations.name: each for each in second.services} == {
        each.annotations.name: each for each in stack.services
    }
    assert second.networks == stack.networks


@given(DOCUMENTS)
def test_what_we_take_the_cluster_takes(tree: Any) -> None:
    try:
        stack = loaded(written(tree))
    except ComposeError:
        assume(False)
    for service in stack.services:
        with suppress(Unsupported):
            check_service(service)
        for secret in service.task.container.secrets:
            check_file("secret", secret.file)
        for config in service.task.container.configs:
            check_file("config", config.file)
    for network in stack.networks:
        with suppress(Unsupported):
            check_network(network)


@given(st.dictionaries(st.sampled_from("abcd"), ANYTHING, max_size=4))
def test_what_is_written_is_read_as_what_it_was(tree: Any) -> None:
    assume('"": ' not in json.dumps(tree))  # A key that is empty is refused.
    text = to_yaml(tree, escape=False)
    assert plain(read_document(text, "c.yml")) == tree


@given(DOCUMENTS)
def test_a_file_over_itself_is_itself(tree: Any) -> None:
    text = written(tree)
    try:
        project = load([Source("c.yml", text)], "/nowhere", ENVIRONMENT, name="s")
    except ComposeError:
        assume(False)
    for service in project.tree["services"].values():
        preferences = service.get("deploy", {}).get("placement", {}).get("preferences", [])
        # What is wanted twice is wanted once, as soon as two files speak of it.
        assume(len({one["spread"] for one in preferences}) == len(preferences))
    twice = load([Source("c.yml", text)] * 2, "/nowhere", ENVIRONMENT, name="s")
    assert to_yaml(twice.tree) == to_yaml(project.tree)
    services: Map = project.tree["services"]
    before = copy(services)
    for name, service in services.items():
        assert merge(service, service, ("services", name)) == service
    assert services == before, "merging changes nothing that it was given"


@pytest.mark.parametrize("size", [2_000])
def test_a_large_file_is_read_in_reasonable_steps(size: int) -> None:
    text = "services:\n" + "".join(f"  s{n}: {{image: x, depends_on: [s{max(0, n - 1)}]}}\n" for n in range(1, size))
    text += "  s0: {image: x}\n"
    stack = loaded(text)
    assert [service.annotations.name for service in stack.services] == [f"s_s{n}" for n in range(size)]
