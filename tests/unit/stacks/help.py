"""Small things the tests of Compose files share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flota.stacks.compose.loading import Project, Source, load
from flota.stacks.compose.reading import read_document
from flota.stacks.compose.tree import Items, Map
from flota.stacks.errors import ComposeError
from flota.stacks.translation.stack import Stack, translate
from flota.v1.specs_pb2 import ServiceSpec


def plain(value: Any) -> Any:
    """Plain dicts, lists and scalars."""
    if isinstance(value, Map):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, Items):
        return [plain(each) for each in value]
    return value


def read(text: str) -> Any:
    """A YAML text as plain values."""
    return plain(read_document(text, "c.yml"))


def project(*texts: str, environment: Mapping[str, str] | None = None, folder: str = "/p", **options: Any) -> Project:
    """Texts of files, loaded as c.yml, c2.yml, …"""
    sources = [Source(f"c{index + 1 if index else ''}.yml", text) for index, text in enumerate(texts)]
    return load(sources, folder, environment or {}, **options)


def service(text: str, **options: Any) -> Any:
    """What the keys of one service come to, without its image and its default network."""
    loaded = project(f"services: {{web: {{image: x, {text}}}}}\n{options.pop('top', '')}", **options)
    made = plain(loaded.tree["services"]["web"])
    del made["image"]
    if made["networks"] == {"default": {}}:
        del made["networks"]
    return made


def stack(text: str, **options: Any) -> Stack:
    """A file as the stack `s`."""
    return translate(project(text, **options), "s")


def spec(text: str, top: str = "", **options: Any) -> ServiceSpec:
    """The spec of a service with these keys."""
    return stack(f"services: {{web: {{image: x, {text}}}}}\n{top}", **options).services[0]


def refusal(*texts: str, **options: Any) -> str:
    """The one line that files are refused with."""
    with pytest.raises(ComposeError) as caught:
        translate(project(*texts, **options), "s")
    said = str(caught.value)
    assert "\n" not in said
    return said


def write(folder: Path, **files: str) -> None:
    """Files in a folder; __ in a name is a dot, _ELSE a slash."""
    for name, text in files.items():
        path = folder / name.replace("__", ".").replace("_ELSE", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
