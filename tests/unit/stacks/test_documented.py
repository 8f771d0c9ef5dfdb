"""No key is dropped in silence: each key that the schema knows does something, is warned of, or is refused.

Shown by taking it out of a file that has it: then something else must come of the file. And docs/compose.md names each
key of a service, a deploy section and the top-level sections, so that the page is whole.
"""

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flota.stacks.compose.loading import Source, load
from flota.stacks.compose.reading import read_document
from flota.stacks.errors import ComposeError
from flota.stacks.translation.ignored import SERVICE_KEYS
from flota.stacks.translation.stack import translate
from tests.unit.stacks.help import plain, refusal
from tests.unit.stacks.projects import CASES, FILES, Case
from tests.unit.stacks.trees import SCHEMA

PAGE = Path(__file__).parents[3] / "docs" / "compose.md"
Place = tuple[str | int, ...]

# Files of one piece, and those that have what the others have not.
FILES_WITH_KEYS = [
    *(case for case in CASES if len(case.files) == 1),
    Case("every-key", ("every-key.yml",), {"FROM_SHELL": "x"}),
]
# Keys that end a deploy.
REFUSED = {
    "services.*.volumes_from": "services: {web: {image: x, volumes_from: [other]}}",
    "services.*.volume_driver": "services: {web: {image: x, volume_driver: nfs}}",
    "services.*.provider": "services: {web: {provider: {type: vpn}}}",
    "services.*.volumes[].image": "services: {web: {image: x, volumes: [{type: image, target: /y, image: {}}]}}",
    "services.*.volumes[].cluster": "services: {web: {image: x, volumes: [{type: cluster, target: /y, cluster: {}}]}}",
    "networks.*.driver": "services: {web: {image: x, networks: [n]}}\nnetworks: {n: {driver: bridge}}",
    "networks.*.ipam.driver": "services: {web: {image: x, networks: [n]}}\nnetworks: {n: {ipam: {driver: dhcp}}}",
    "secrets.*.driver": "services: {web: {image: x, secrets: [s]}}\nsecrets: {s: {external: true, driver: vault}}",
}
# Read for the sake of people and old files; nothing is to come of it.
MEANINGLESS = {"version", "services.*.ports[].name"}


def keys(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every key that a schema knows: services, services.*.ports, services.*.ports[].mode."""
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    for key, each in schema.get("properties", {}).items():
        if not key.startswith("x-"):
            below = f"{path}.{key}".lstrip(".")
            yield below
            yield from keys(each, below)
    for mark, each in (("[]", schema.get("items")), (".*", schema.get("additionalProperties"))):
        if isinstance(each, dict):
            yield from keys(each, f"{path}{mark}")


KNOWN = set(keys(SCHEMA))
# Those without keys below them.
LEAVES = {key for key in KNOWN if not any(other.startswith((f"{key}.", f"{key}[]")) for other in KNOWN)}


class Document:
    """A file, and what comes of it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.content = json.loads(json.dumps(plain(read_document((FILES / case.files[0]).read_text(), case.files[0]))))
        self.whole = self.outcome(self.content)
        assert not isinstance(self.whole, str), self.whole

    def outcome(self, content: Any) -> Any:
        """What comes of a content in its place: the stack with its warnings, or the refusal."""
        path, case = FILES / self.case.files[0], self.case
        source = Source(str(path), json.dumps(content))
        try:
            project = load([source], str(path.parent), case.environment, name="", profiles=case.profiles)
            return translate(project, project.name or "shop")
        except ComposeError as error:
            return str(error)


@cache
def documents() -> list[Document]:
    return [Document(case) for case in FILES_WITH_KEYS]


def places(value: Any, words: list[str], at: Place = ()) -> Iterator[Place]:
    """Where a key stands in a document; short forms have none."""
    if not words:
        yield at
        return
    word, *rest = words
    if word == "[]":
        steps: list[str | int] = list(range(len(value))) if isinstance(value, list) else []
    elif isinstance(value, dict):
        steps = list(value) if word == "*" else [word] * (word in value)
    else:
        steps = []
    for step in steps:
        yield from places(value[step], rest, (*at, step))


def without(value: Any, place: Place) -> Any:
    made = copy.deepcopy(value)
    inner = made
    for step in place[:-1]:
        inner = inner[step]
    del inner[place[-1]]
    return made


def test_every_key_of_the_specification_is_known() -> None:
    lines = (Path(__file__).parent / "specification-keys.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} - KNOWN == set()


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_ends_a_deploy_is_named(key: str) -> None:
    said = refusal(REFUSED[key])
    assert key.rpartition(".")[2] in said
    assert said.startswith("c.yml:")


@pytest.mark.parametrize("key", sorted(LEAVES - MEANINGLESS - set(REFUSED)))
def test_a_key_does_something_or_is_told_of(key: str) -> None:
    words = key.replace("[]", ".[]").split(".")
    found = [(document, place) for document in documents() for place in places(document.content, words)]
    assert found, f"no file has {key}: every-key.yml shall"
    for document, place in found:
        if document.outcome(without(document.content, place)) != document.whole:
            return
    names = ", ".join(document.case.name for document, _ in found)
    pytest.fail(f"{key} can be left out of {names}, and nothing tells")


def chapter(heading: str) -> str:
    """The tables under a heading of the page."""
    text = PAGE.read_text().partition(f"# {heading}\n")[2]
    return "\n".join(line for line in re.split(r"\n#+ ", text)[0].splitlines() if line.startswith("|"))


@pytest.mark.parametrize(
    ("section", "heading"),
    [
        ("service", "Services"),
        ("deploy", "deploy"),
        *((each, "Networks, volumes, secrets, configs") for each in ("network", "volume", "secret", "config")),
    ],
)
def test_the_page_names_every_key(section: str, heading: str) -> None:
    named = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`([^`]*)`", chapter(heading)))))
    elsewhere = {"deploy", "extends", "profiles", "resources"}
    known = {key for key in SCHEMA["$defs"][section]["properties"] if not key.startswith("x-")}
    assert known - named - elsewhere == set()


def test_the_page_says_which_keys_are_ignored() -> None:
    warned = " ".join(line for line in chapter("Services").splitlines() if "| warned |" in line)
    assert set(SERVICE_KEYS) - set(re.findall(r"`([a-z0-9_]+)`", warned)) - {"build", "provider"} == set()
