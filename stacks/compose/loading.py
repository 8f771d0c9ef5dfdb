"""Loads a Compose project: the files given, what they include, what their services extend, merged into one tree.

Variables come from the environment, then from `.env` in the project's folder (or the env files given). Relative paths
in the files given are taken from the project's folder, those in included and extended files from their own.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flota.stacks.compose.canonical.document import make_canonical
from flota.stacks.compose.canonical.leaves import keeping_variables
from flota.stacks.compose.dotenv import read_variables
from flota.stacks.compose.files import read_text
from flota.stacks.compose.finishing import finish
from flota.stacks.compose.interpolation import Variables, interpolate
from flota.stacks.compose.merging import merge
from flota.stacks.compose.reading import read_document
from flota.stacks.compose.tree import Items, Map, Place, Spot, copy
from flota.stacks.compose.validation import validate
from flota.stacks.errors import ComposeError
from flota.stacks.mounts import absolute

_SECTIONS = ("services", "networks", "volumes", "secrets", "configs")
_MAX_FILES = 200


@dataclass(frozen=True)
class Source:
    """One file as it was given: `name` is what errors call it."""

    name: str
    text: str


@dataclass
class Project:
    """A loaded project: one canonical tree, and what a person should hear about it."""

    tree: Map
    # What secrets and configs with `environment:` are read from.
    environment: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name that the files give the project; empty when they give none."""
        return str(self.tree.get("name", ""))


def read_source(path: str) -> Source:
    """A file named on the command line. Raises ComposeError."""
    return Source(path, read_text(path))


def project_folder(path: str) -> str:
    """The folder that relative paths are taken from, when `path` is the first file ("-": standard input)."""
    return os.path.abspath("." if path == "-" else os.path.dirname(path) or ".")


def load(
    sources: Sequence[Source],
    folder: str,
    environment: Mapping[str, str],
    *,
    name: str = "",
    profiles: Sequence[str] = (),
    env_files: Sequence[str] = (),
    with_variables: bool = True,
) -> Project:
    """Load, merge and finish. Raises ComposeError.

    Without `with_variables` variables stay as they are written, and nothing is finished: nobody knows what they mean.
    """
    values = with_env_files(environment, folder, env_files)
    if name:
        values["COMPOSE_PROJECT_NAME"] = name
    loader = _Loader(with_variables)
    try:
        tree = loader.model(sources, folder, values)
        if with_variables:
            enabled = [*profiles, *filter(None, values.get("COMPOSE_PROFILES", "").split(","))]
            finish(tree, values, [profile.strip() for profile in enabled])
    except ComposeError as error:
        raise loader.explained(error) from None
    return Project(tree, values, loader.warnings)


def with_env_files(
    environment: Mapping[str, str], folder: str, env_files: Sequence[str], asked_at: Spot | None = None
) -> dict[str, str]:
    """The environment, and below it what the env files say (without any: .env in the folder, if it is there)."""
    defaults: dict[str, str | None] = {}
    for path in env_files:
        defaults |= read_variables(read_text(path, asked_at), path, environment)
    dotenv = os.path.join(folder, ".env")
    if not env_files and os.path.isfile(dotenv):
        defaults |= read_variables(read_text(dotenv), dotenv, environment)
    return {key: value for key, value in defaults.items() if value is not None} | dict(environment)


def read_filled(source: Source, environment: Mapping[str, str] | None) -> tuple[Map, dict[str, Place]]:
    """One file with its variables filled in (unless there is no environment), and those that are not set.

    Nothing is checked yet. Raises ComposeError.
    """
    tree = read_document(source.text, source.name)
    unset: dict[str, Place] = {}
    if environment is not None:
        own = tree.get("name")
        if isinstance(own, str) and "$" not in own:
            environment = {"COMPOSE_PROJECT_NAME": own, **environment}
        variables = Variables(environment)
        interpolate(tree, variables)
        unset = variables.unset
    forget_nothing(tree)
    return tree, unset


class _Loader:
    def __init__(self, with_variables: bool) -> None:
        self._with_variables = with_variables
        self._files = 0
        self._including: list[str] = []
        self._unset: dict[str, Place] = {}

    @property
    def warnings(self) -> list[str]:
        """A line for each variable that was asked for in vain."""
        return [
            f"{place.file}:{place.line}: the variable {name} is not set, an empty text stands for it "
            f"(a default: ${{{name}:-…}})"
            for name, place in self._unset.items()
        ]

    def explained(self, error: ComposeError) -> ComposeError:
        """An error on a line where a variable was asked for in vain says so."""
        missing = [name for name, place in self._unset.items() if (place.file, place.line) == (error.file, error.line)]
        if not missing:
            return error
        verb = "is" if len(missing) == 1 else "are"
        message = f"{error.message} (of the variables on this line, {', '.join(missing)} {verb} not set)"
        return ComposeError(message, error.file, error.line, error.key)

    def model(self, sources: Sequence[Source], folder: str, environment: Mapping[str, str]) -> Map:
        """Files merged into one, with what they include and extend."""
        tree: Map | None = None
        for source in sources:
            file = self._file(source, folder, environment)
            self._include(file, source.name, folder, environment)
            self._extend(file, tree, source.name, folder, environment)
            tree = file if tree is None else merge(tree, file)
        if tree is None:
            raise ComposeError("no Compose file is given")
        return tree

    def _file(self, source: Source, folder: str, environment: Mapping[str, str]) -> Map:
        """One file: read, filled in, checked, canonical."""
        self._files += 1
        if self._files > _MAX_FILES:
            raise ComposeError(f"more than {_MAX_FILES} files are included and extended", source.name)
        tree, unset = read_filled(source, environment if self._with_variables else None)
        self._unset = unset | self._unset
        validate(tree)
        with keeping_variables(not self._with_variables):
            make_canonical(tree, folder)
        return tree

    # --- include --------------------------------------------------------------------------------------------------

    def _include(self, tree: Map, shown: str, folder: str, environment: Mapping[str, str]) -> None:
        """Take over what the files under `include:` define."""
        spot = Spot(tree.place, ()).of(tree, "include")
        entries = tree.drop("include") or Items(tree.place)
        for index, entry in enumerate(entries):
            self._take_over(tree, self._included(entry, spot.of(entries, index), shown, folder, environment))

    def _included(self, entry: object, spot: Spot, shown: str, folder: str, environment: Mapping[str, str]) -> Map:
        options: Mapping[str, Any] = entry if isinstance(entry, Map) else {"path": entry}
        paths = _listed(options["path"])
        if not paths or not all(paths):
            spot.fail("a file's path is needed")
        for path in paths:
            if "://" in path or path.startswith("git@"):
                spot.fail(f"{path!r} is not a file: only local files can be included")
        first = absolute(paths[0], folder)
        own = (
            absolute(options["project_directory"], folder) if "project_directory" in options else os.path.dirname(first)
        )
        env_files = [absolute(path, folder) for path in _listed(options.get("env_file", []))]
        if first in self._including:
            chain = " → ".join([*self._including[self._including.index(first) :], first])
            spot.fail(f"the files include each other: {chain}")
        self._including.append(first)
        try:
            sources = [
                Source(_shown_path(shown, path), read_text(absolute(path, folder), spot, _shown_path(shown, path)))
                for path in paths
            ]
            return self.model(sources, own, with_env_files(environment, own, env_files, spot))
        finally:
            self._including.pop()

    def _take_over(self, tree: Map, included: Map) -> None:
        for section in _SECTIONS:
            for name, value in included.get(section, {}).items():
                own = tree.get(section)
                if own is None:
                    own = Map(tree.place)
                    tree.put(section, own)
                place = included[section].place_of(name)
                if name in own and own[name] != value:
                    raise Spot(own.place_of(name), (section, name)).error(
                        f"it is also defined in an included file ({place.file}:{place.line}); "
                        "to change it, use another -c FILE, or extends"
                    )
                own.put(name, value, place)

    # --- extends --------------------------------------------------------------------------------------------------

    def _extend(self, tree: Map, below: Map | None, shown: str, folder: str, environment: Mapping[str, str]) -> None:
        """Merge each service of a file with what it extends; `below` are the files before it."""
        services = tree.get("services", Map(tree.place))
        origin = _Origin(services, below.get("services", {}) if below is not None else {}, shown, folder, environment)
        for name in list(services):
            services[name] = self._extended(origin, name, Spot(services.place_of(name), ("services", name)), [])

    def _extended(self, origin: _Origin, name: str, spot: Spot, chain: list[tuple[str, str]]) -> Map:
        service: Map | None = origin.services.get(name, origin.below.get(name))
        if service is None:
            known = ", ".join([*origin.services, *origin.below]) or "no services"
            spot.fail(f"there is no service {name!r} to extend in {origin.shown}; it has {known}")
        if "extends" not in service:
            return service
        here = (origin.shown, name)
        if here in chain:
            spot.fail(f"services extend each other: {' → '.join(each for _, each in [*chain, here])}")
        extends = service["extends"]
        at = Spot(service.place_of("extends"), ("services", name, "extends"))
        wanted = extends["service"] if isinstance(extends, Map) else extends
        other = origin
        if isinstance(extends, Map) and extends.get("file"):
            other = self._origin_of(extends["file"], origin, at)
        base = copy(self._extended(other, wanted, at, [*chain, here]))
        own = copy(service)
        own.drop("extends")
        return merge(base, own, ("services", name))

    def _origin_of(self, path: str, origin: _Origin, at: Spot) -> _Origin:
        if "://" in path:
            at.fail(f"{path!r} is not a file: only services of local files can be extended")
        shown, file = _shown_path(origin.shown, path), absolute(path, origin.folder)
        folder = os.path.dirname(file)
        tree = self._file(Source(shown, read_text(file, at, shown)), folder, origin.environment)
        return _Origin(tree.get("services", {}), {}, shown, folder, origin.environment)


@dataclass(frozen=True)
class _Origin:
    """Where services to extend are looked for."""

    services: Mapping[str, Map]
    below: Mapping[str, Map]
    shown: str
    folder: str
    environment: Mapping[str, str]


def _listed(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _shown_path(beside: str, path: str) -> str:
    """How errors call a file that another one names."""
    return (
        path if os.path.isabs(path) or beside == "-" else os.path.normpath(os.path.join(os.path.dirname(beside), path))
    )


# Mappings in which a key without a value says something, and those whose keys are names.
_FREE = frozenset({"environment", "labels", "annotations", "sysctls", "options", "driver_opts", "build", "develop"})
_NAMES = frozenset({"networks", "depends_on"})


def forget_nothing(tree: Map) -> None:
    """Take out keys that have no value: `ports:` with every item commented out says nothing."""
    for section in _SECTIONS:
        entries = tree.get(section)
        for entry in entries.values() if isinstance(entries, Map) else ():
            _forget(entry)


def _forget(value: object) -> None:
    if isinstance(value, Items):
        for each in value:
            _forget(each)
    if not isinstance(value, Map):
        return
    for key in list(value):
        if value[key] is None:
            value.drop(key)
        elif key in _NAMES and isinstance(value[key], Map):
            for each in value[key].values():
                _forget(each)
        elif key not in _FREE and not key.startswith("x-"):
            _forget(value[key])
