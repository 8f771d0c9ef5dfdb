"""A running stack as a Compose file: `stack export`. Deployed again under its name, the file changes nothing.

Contents of secrets stay in the cluster: the file names them as external.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flota.stacks.translation.back import (
    Tree,
    mounts_of,
    network_tree,
    own_labels,
    service_tree,
    short_name,
    some,
    untold,
    volume_tree,
)
from flota.stacks.translation.names import NAMESPACE
from flota.stacks.versions import name_of
from flota.v1.objects_pb2 import Config, Network
from flota.v1.specs_pb2 import ServiceSpec

_KEY = re.compile(r"[a-zA-Z0-9._-]+")


@dataclass
class Exported:
    """A file's tree, and what it could not say."""

    tree: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def export(
    stack: str, services: Iterable[ServiceSpec], networks: Mapping[str, Network], configs: Mapping[str, Config]
) -> Exported:
    """The file. `networks` are all there are, by id; `configs` all that services may name, by name."""
    specs = sorted(services, key=lambda spec: spec.annotations.name)
    exported = Exported()
    network_keys = {id: _key_of(stack, network.spec.annotations.name) for id, network in networks.items()}
    volume_keys = {mount.source: _key_of(stack, mount.source) for mount in mounts_of(specs)}
    volumes = {
        volume_keys[mount.source]: volume_tree(mount, volume_keys[mount.source], stack) for mount in mounts_of(specs)
    }
    made: Tree = {}
    files = _Files(stack, configs, exported)
    for spec in specs:
        name = short_name(stack, spec.annotations.name)
        tree = service_tree(spec, stack, network_keys, volume_keys)
        files.name_in(tree)
        made[name] = tree
        exported.warnings += [f"service {name}: Compose has no word for it: {each}" for each in untold(spec)]
    exported.tree |= {"name": stack, "services": made} | some(
        networks=_networks(stack, specs, networks, network_keys), volumes=volumes
    )
    return exported


def _key_of(stack: str, name: str) -> str:
    """A key for something of this name."""
    key = short_name(stack, name)
    return key if _KEY.fullmatch(key) else re.sub(r"[^a-zA-Z0-9._-]+", "-", key).strip("-") or "unnamed"


def _networks(
    stack: str, specs: Iterable[ServiceSpec], networks: Mapping[str, Network], keys: Mapping[str, str]
) -> Tree:
    used = {attachment.target for spec in specs for attachment in spec.task.networks}
    tree: Tree = {}
    for id in used:
        network = networks.get(id)
        if network is None:
            continue
        name = network.spec.annotations.name
        if network.spec.annotations.labels.get(NAMESPACE) == stack:
            tree[keys[id]] = network_tree(network.spec, keys[id], stack)
        else:
            tree[keys[id]] = {"external": True} | some(name=name if name != keys[id] else None)
    return {} if tree == {"default": {}} else tree


class _Files:
    """Secrets and configs that services name."""

    def __init__(self, stack: str, configs: Mapping[str, Config], exported: Exported) -> None:
        self._stack = stack
        self._configs = configs
        self._exported = exported
        # What the file calls a version of a config, when only one is in use: by its plain name.
        self._plain: dict[str, str] = {}

    def _name(self, section: str, name: str) -> str:
        """The name for the file: a version's plain one, unless another version is in use, too."""
        config = self._configs.get(name) if section == "configs" else None
        plain = name_of(config) if config is not None else name
        return plain if self._plain.setdefault(plain, name) == name else name

    def name_in(self, service: Tree) -> None:
        """Give a service's references keys of the file, and define those."""
        for section in ("secrets", "configs"):
            for reference in service.get(section, ()):
                name = reference["source"]
                key = _key_of(self._stack, self._name(section, name))
                entries: Tree = self._exported.tree.setdefault(section, {})
                if key not in entries:
                    entries[key] = self._entry(section, name, key)
                reference["source"] = key
                if reference["target"] == (key if section == "secrets" else f"/{key}"):
                    del reference["target"]

    def _entry(self, section: str, name: str, key: str) -> Tree:
        config = self._configs.get(name) if section == "configs" else None
        if config is not None and config.spec.annotations.labels.get(NAMESPACE) == self._stack:
            try:
                content = config.spec.data.decode()
            except UnicodeDecodeError:
                self._exported.warnings.append(f"config {name}: it is not text, so the file names it as external")
            else:
                own = self._name("configs", name)
                return {"content": content} | some(
                    name=own if own != f"{self._stack}_{key}" else None,
                    labels=own_labels(config.spec.annotations.labels),
                    template_driver=config.spec.template_driver,
                )
        return {"external": True} | some(name=name if name != key else None)
