"""Secrets and configs whose content changes under the same name: pure rules for the objects behind a name.

An object in the cluster never changes its content, so each content that a file gives to `password` is an object of its
own: `shop_password`, then `shop_password.2`, … The label OBJECT says which name of the file such an object is for.
Services are deployed with the object's name; where the file appears in the container stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

from flota.v1.objects_pb2 import Config, Secret
from flota.v1.specs_pb2 import ConfigSpec, SecretSpec, ServiceSpec

OBJECT = "flota.stack.object"
# Labels that begin so are flota's own marks, not the file's.
_MARK = "flota.stack."
_LONGEST = 64
_NUMBERED = re.compile(r"(.+)\.([1-9][0-9]*)")

T = TypeVar("T", Secret, Config)


class Chosen(NamedTuple):
    """The object for a name of the file."""

    name: str
    # It is there already, with the content that the file gives.
    there: bool
    # There is one with another content: this is a new version.
    rotates: bool


def name_of(thing: Secret | Config) -> str:
    """The name that files give to an object."""
    annotations = thing.spec.annotations
    return annotations.labels.get(OBJECT) or annotations.name


def family(name: str, things: Iterable[T]) -> list[T]:
    """All versions of `name`, the newest first."""
    return sorted((each for each in things if name_of(each) == name), key=lambda each: -number_of(each))


def number_of(thing: Secret | Config) -> int:
    """1 for the first version, which has the plain name."""
    match = _NUMBERED.fullmatch(thing.spec.annotations.name)
    return int(match[2]) if match and OBJECT in thing.spec.annotations.labels else 1


def unwanted(things: Mapping[str, T], wanted: Collection[str]) -> dict[str, T]:
    """Those that no file names, neither as they are nor by the name that they are a version of."""
    plain = {name_of(thing) for name, thing in things.items() if name in wanted} | set(wanted)
    return {name: thing for name, thing in things.items() if name_of(thing) not in plain and name not in plain}


def choose(name: str, things: Mapping[str, T], same: Callable[[T], bool]) -> Chosen:
    """The version of `name` that has the content asked for (`same` tells), or the name of a new one."""
    versions = family(name, things.values())
    for each in versions:
        if same(each):
            return Chosen(each.spec.annotations.name, True, False)
    if name in things and same(things[name]):
        # A file that names a version itself.
        return Chosen(name, True, False)
    if not versions and name not in things:
        return Chosen(name, False, False)
    return Chosen(_next_name(name, versions, things), False, True)


def choose_secret(spec: SecretSpec, things: Mapping[str, Secret], same: Callable[[Secret, SecretSpec], bool]) -> Chosen:
    """The version of a secret; `same` tells whether one has the content of a spec, which nobody may read back."""

    def fits(secret: Secret) -> bool:
        return secret.spec.template_driver == spec.template_driver and same(secret, spec)

    return choose(spec.annotations.name, things, fits)


def choose_config(spec: ConfigSpec, things: Mapping[str, Config]) -> Chosen:
    """The version of a config."""

    def fits(config: Config) -> bool:
        return config.spec.template_driver == spec.template_driver and config.spec.data == spec.data

    return choose(spec.annotations.name, things, fits)


def labels_wanted(spec: SecretSpec | ConfigSpec, thing: Secret | Config) -> dict[str, str]:
    """The labels that the object of a spec shall have: the file's, and the marks that it carries."""
    marks = {key: value for key, value in thing.spec.annotations.labels.items() if key.startswith(_MARK)}
    return marks | dict(spec.annotations.labels)


def _next_name(name: str, versions: Iterable[Secret | Config], taken: Collection[str]) -> str:
    number = max((number_of(each) for each in versions), default=1) + 1
    while True:
        ending = f".{number}"
        made = name[: _LONGEST - len(ending)] + ending
        if made not in taken:
            return made
        number += 1


def with_versions(spec: ServiceSpec, secrets: Mapping[str, str], configs: Mapping[str, str]) -> ServiceSpec:
    """A copy of `spec` that names objects where it named what the files call them."""
    made = ServiceSpec()
    made.CopyFrom(spec)
    container = made.task.container
    for secret in container.secrets:
        secret.secret_name = secrets.get(secret.secret_name, secret.secret_name)
    for config in container.configs:
        config.config_name = configs.get(config.config_name, config.config_name)
    container.secrets.sort(key=lambda reference: (reference.secret_name, reference.file.name))
    container.configs.sort(key=lambda reference: (reference.config_name, reference.file.name))
    return made
