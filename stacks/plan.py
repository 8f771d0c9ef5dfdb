"""What a deploy would do: a pure comparison of a stack with what is there.

Both sides are put into a file's words (translation/back.py), flattened to `key: value`, and compared; so a person reads
`deploy.replicas: 2 → 3`, and two files that mean the same differ in nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flota.stacks.translation.adapting import adapted, network_differences
from flota.stacks.translation.back import mounts_of, network_tree, service_tree, short_name, untold, volume_tree
from flota.stacks.translation.stack import Stack
from flota.stacks.versions import Chosen, choose_config, choose_secret, family, labels_wanted, unwanted, with_versions
from flota.v1.objects_pb2 import Config, Network, Secret, Service
from flota.v1.service_defaults import with_defaults
from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec, TaskSpec
from flota.v1.types_pb2 import Mount

# refuse: the deploy would end with an error. keep: it stays although the file says something else. same: nothing to do.
Action = Literal["create", "change", "remove", "refuse", "keep", "same"]


@dataclass(frozen=True)
class Change:
    """One key; None on a side where it is not."""

    key: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Step:
    """What becomes of one thing."""

    kind: str
    name: str
    action: Action
    changes: tuple[Change, ...] = ()
    # Its tasks are replaced by new ones.
    restarts: bool = False
    # How many tasks that makes: those that are replaced, or, of a service that is removed, those that stop.
    tasks: int = 0
    note: str = ""


@dataclass
class There:
    """What there is of the stack, by name; and all networks, by id, because services name them so."""

    services: Mapping[str, Service] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    configs: Mapping[str, Config] = field(default_factory=dict)
    all_networks: Mapping[str, Network] = field(default_factory=dict)
    # How many tasks each service has, by its name.
    tasks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All steps, in the order of a deploy."""

    stack: str
    steps: tuple[Step, ...]

    @property
    def changes(self) -> list[Step]:
        """The steps that do something."""
        return [step for step in self.steps if step.action in ("create", "change", "remove", "refuse")]


def plan(
    stack: Stack,
    there: There,
    *,
    prune: bool = False,
    resolve_image: str = "always",
    same_secret: Callable[[Secret, SecretSpec], bool] = lambda secret, spec: True,
) -> Plan:
    """What deploying `stack` would do. `same_secret` tells whether a secret's content is that of a spec."""
    steps: list[Step] = []
    secrets: dict[str, str] = {}
    configs: dict[str, str] = {}
    external = {name for _, name in stack.external}
    for network in stack.networks:
        steps.append(_network(network.annotations.name, there, stack, network))
    for secret in stack.secrets:
        chosen = choose_secret(secret, there.secrets, same_secret)
        secrets[secret.annotations.name] = chosen.name
        steps.append(_file("secret", secret, there.secrets, chosen))
    for config in stack.configs:
        chosen = choose_config(config, there.configs)
        configs[config.annotations.name] = chosen.name
        steps.append(_file("config", config, there.configs, chosen, _content(config, there.configs, chosen)))
    for service in sorted(stack.services, key=lambda spec: spec.annotations.name):
        steps.append(_service(with_versions(service, secrets, configs), there, stack.name, resolve_image))

    def wanted(specs: Iterable[ServiceSpec | NetworkSpec | SecretSpec | ConfigSpec]) -> set[str]:
        return external | {spec.annotations.name for spec in specs}

    left = (
        ("service", set(there.services) - wanted(stack.services)),
        ("network", set(there.networks) - wanted(stack.networks)),
        ("secret", set(unwanted(there.secrets, wanted(stack.secrets)))),
        ("config", set(unwanted(there.configs, wanted(stack.configs)))),
    )
    steps += [_left(kind, name, prune, there) for kind, names in left for name in sorted(names)]
    return Plan(stack.name, tuple(steps))


def differences(old: ServiceSpec, new: ServiceSpec, networks: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs between two specs of one service, in a file's words. `networks` maps ids to names."""

    def told(spec: ServiceSpec) -> dict[str, Any]:
        more: dict[str, Any] = {"force update": spec.task.force_update} if spec.task.force_update else {}
        return more | service_tree(spec, "", networks, {})

    return _compared(told(with_defaults(old)), told(with_defaults(new)))


def _left(kind: str, name: str, prune: bool, there: There) -> Step:
    if prune:
        return Step(kind, name, "remove", tasks=there.tasks.get(name, 0) if kind == "service" else 0)
    return Step(kind, name, "keep", note="the files do not have it any longer; --prune removes it")


def _network(name: str, there: There, stack: Stack, spec: Any) -> Step:
    if name not in there.networks:
        tree = network_tree(spec, short_name(stack.name, name), stack.name)
        return Step("network", name, "create", _compared({}, tree))
    differing = network_differences(there.networks[name].spec, spec)
    if differing:
        note = f"it stays as it is, although the file says something else about {', '.join(differing)}"
        return Step("network", name, "keep", note=note)
    return Step("network", name, "same")


def _file(
    kind: str,
    spec: SecretSpec | ConfigSpec,
    there: Mapping[str, Secret] | Mapping[str, Config],
    chosen: Chosen,
    content: tuple[Change, ...] = (),
) -> Step:
    name = spec.annotations.name
    if chosen.there:
        existing = there[chosen.name]
        labels = labels_wanted(spec, existing)
        changes = _compared({"labels": dict(existing.spec.annotations.labels)}, {"labels": labels})
        return Step(kind, name, "change" if changes else "same", changes)
    if not chosen.rotates:
        return Step(kind, name, "create")
    return Step(kind, name, "change", content, note=f"its content differs: {chosen.name} is made of it")


def _content(spec: ConfigSpec, there: Mapping[str, Config], chosen: Chosen) -> tuple[Change, ...]:
    """A config's newest content and the one asked for, where both are text."""
    versions = family(spec.annotations.name, there.values())
    if not chosen.rotates or not versions:
        return ()
    try:
        change = Change("content", versions[0].spec.data.decode(), spec.data.decode())
    except UnicodeDecodeError:
        return ()
    return (change,) if change.old != change.new else ()


def _service(asked: ServiceSpec, there: There, stack: str, resolve_image: str) -> Step:
    name = asked.annotations.name
    existing = there.services.get(name)
    if existing is None:
        return Step("service", name, "create", _compared({}, _told(asked, stack)))
    names = {id: network.spec.annotations.name for id, network in there.all_networks.items()}
    old = with_defaults(existing.spec)
    new = with_defaults(adapted(asked, existing.spec, resolve_image))
    for attachment in old.task.networks:
        attachment.target = names.get(attachment.target, attachment.target)
    _forget_ids(old)
    if (old.WhichOneof("mode") or "") != (new.WhichOneof("mode") or ""):
        change = Change("deploy.mode", _mode(old), _mode(new))
        return Step("service", name, "refuse", (change,), note="the mode of a service cannot change: remove it first")
    if old == new:
        return Step("service", name, "same")
    changes = _compared(_told(old, stack), _told(new, stack))
    if not _restarts(old, new):
        return Step("service", name, "change", changes)
    tasks = there.tasks.get(name, 0)
    # What is scaled down besides is not replaced.
    tasks = min(tasks, new.replicated.replicas) if new.HasField("replicated") else tasks
    return Step("service", name, "change", changes, restarts=True, tasks=tasks)


def _mode(spec: ServiceSpec) -> str:
    return (spec.WhichOneof("mode") or "replicated").replace("_", "-")


def _forget_ids(spec: ServiceSpec) -> None:
    """References are compared by name; credentials are never shown."""
    spec.task.container.registry_auth = ""
    for secret in spec.task.container.secrets:
        secret.secret_id = ""
    for config in spec.task.container.configs:
        config.config_id = ""


def _restarts(old: ServiceSpec, new: ServiceSpec) -> bool:
    """Whether tasks must be replaced: constraints alone move only those whose node no longer fits."""
    return old.endpoint != new.endpoint or _comparable(old.task) != _comparable(new.task)


def _comparable(task: TaskSpec) -> TaskSpec:
    copy = TaskSpec()
    copy.CopyFrom(task)
    copy.container.registry_auth = ""
    del copy.placement.constraints[:]
    if not copy.placement.ByteSize():
        copy.ClearField("placement")
    return copy


# --- trees to key: value ----------------------------------------------------------------------------------------------


def _told(spec: ServiceSpec, stack: str) -> dict[str, Any]:
    """A service in a file's words, and what else there is to say."""
    tree = service_tree(spec, stack, {}, {})
    volumes = {mount.source: _volume(mount, stack) for mount in mounts_of([spec])}
    told = {"volumes of the stack": {name: each for name, each in volumes.items() if each}, **tree}
    for index, text in enumerate(untold(spec)):
        told[f"note {index + 1}"] = text
    return told


def _volume(mount: Mount, stack: str) -> dict[str, Any]:
    tree = volume_tree(mount, short_name(stack, mount.source), stack)
    return {key: value for key, value in tree.items() if key in ("driver", "driver_opts", "labels")}


def _compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = [*before, *(key for key in after if key not in before)]
    return tuple(
        Change(key, before.get(key), after.get(key)) for key in sorted(keys) if before.get(key) != after.get(key)
    )


# Items of these lists are known by a key of their own.
_ITEM_KEYS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ports": lambda port: f"{port.get('published', '')}:{port['target']}/{port['protocol']}".lstrip(":"),
    "volumes": lambda mount: str(mount["target"]),
    "secrets": lambda reference: str(reference.get("target") or reference["source"]),
    "configs": lambda reference: str(reference.get("target") or reference["source"]),
    "deploy.resources.reservations.generic_resources": lambda each: str(each["discrete_resource_spec"]["kind"]),
}


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        if not value and path:
            yield path, "{}"
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and path in _ITEM_KEYS:
        for each in value:
            yield from _flat(each, f"{path}[{_ITEM_KEYS[path](each)}]")
    elif isinstance(value, list):
        yield path, _listed(value)
    else:
        yield path, "true" if value is True else str(value)


def _listed(value: list[Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
