"""From a Docker swarm to a flota swarm: what would be made here of what is there. Pure.

Networks, configs, secrets and services, in the order in which they can be made. Ids are another swarm's, so everything
refers to its parts by name. Data of volumes and of secrets is not Docker's to give: the first stays, the second is
handed over by a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flota.gateway.translation import asked
from flota.gateway.translation.fields import Fields
from flota.rpc.errors import FlotaError
from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec
from flota.v1.types_pb2 import Mount

Json = dict[str, Any]
KINDS = ("network", "config", "secret", "service")


@dataclass(frozen=True)
class DockerSwarm:
    """What Docker's API answers about a swarm: GET /networks, /configs, /secrets, /services, /nodes."""

    networks: list[Json] = field(default_factory=list)
    configs: list[Json] = field(default_factory=list)
    secrets: list[Json] = field(default_factory=list)
    services: list[Json] = field(default_factory=list)
    nodes: list[Json] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One thing. It is made when there is a `spec`; else `why` says why not."""

    kind: str
    name: str
    spec: NetworkSpec | ConfigSpec | SecretSpec | ServiceSpec | None
    why: str = ""
    # It is here already: nothing is to be done.
    there: bool = False
    # What becomes different, or is left to a person.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All steps, in their order, and what else a person should know."""

    steps: list[Step]
    notes: list[str]

    @property
    def blocked(self) -> list[Step]:
        """Those that cannot be done."""
        return [step for step in self.steps if step.spec is None and not step.there]


def plan(source: DockerSwarm, here: Mapping[str, set[str]], secrets: Mapping[str, bytes]) -> Plan:
    """What to make. `here` are the names there are in this swarm by kind, `secrets` the data that was handed over."""
    names = {each.get("Id", ""): each.get("Name", "") for each in source.networks}
    steps = [_network(each, here) for each in source.networks if _is_ours(each)]
    steps += [_config(each, here) for each in source.configs]
    steps += [_secret(each, here, secrets) for each in source.secrets]
    missing = {(step.kind, step.name) for step in steps if step.spec is None and not step.there}
    steps += [_service(each, here, names, missing) for each in source.services]
    return Plan(steps, _labels(source.nodes))


def _is_ours(network: Json) -> bool:
    return network.get("Scope") == "swarm" and network.get("Driver") == "overlay" and not network.get("Ingress")


def _network(given: Json, here: Mapping[str, set[str]]) -> Step:
    name = given.get("Name", "")
    if name in here["network"]:
        return Step("network", name, None, there=True)
    notes = []
    options = {key: value for key, value in (given.get("Options") or {}).items() if "vxlanid" not in key}
    if (given.get("IPAM") or {}).get("Config"):
        notes.append("its subnet is given anew")
    return _step(
        "network",
        name,
        lambda: asked.network_spec(Fields(given | {"Options": options, "IPAM": None})),
        notes,
    )


def _config(given: Json, here: Mapping[str, set[str]]) -> Step:
    spec = given.get("Spec") or {}
    name = spec.get("Name", "")
    if name in here["config"]:
        return Step("config", name, None, there=True)
    return _step("config", name, lambda: asked.config_spec(Fields(spec)), [])


def _secret(given: Json, here: Mapping[str, set[str]], secrets: Mapping[str, bytes]) -> Step:
    spec = given.get("Spec") or {}
    name = spec.get("Name", "")
    if name in here["secret"]:
        return Step("secret", name, None, there=True)
    if name not in secrets:
        return Step("secret", name, None, f"Docker does not give its data away: --secret {name}=FILE")

    def made() -> SecretSpec:
        secret = asked.secret_spec(Fields(spec | {"Data": ""}))
        secret.data = secrets[name]
        return secret

    return _step("secret", name, made, [])


def _service(
    given: Json, here: Mapping[str, set[str]], networks: Mapping[str, str], missing: set[tuple[str, str]]
) -> Step:
    spec = given.get("Spec") or {}
    name = spec.get("Name", "")
    if name in here["service"]:
        return Step("service", name, None, there=True)
    step = _step("service", name, lambda: asked.service_spec(Fields(spec)), [])
    if not isinstance(step.spec, ServiceSpec):
        return step
    service = step.spec
    task = service.task
    for attachment in task.networks:
        attachment.target = networks.get(attachment.target, attachment.target)
    for secret in task.container.secrets:
        secret.secret_id = ""
    for config in task.container.configs:
        config.config_id = ""
    needed = [("network", each.target) for each in task.networks]
    needed += [("secret", each.secret_name) for each in task.container.secrets]
    needed += [("config", each.config_name) for each in task.container.configs]
    lacking = [f"{kind} {wanted}" for kind, wanted in needed if (kind, wanted) in missing]
    if lacking:
        return Step("service", name, None, f"it needs {', '.join(lacking)}, which cannot be made")
    return Step("service", name, service, notes=tuple(_service_notes(service)))


def _service_notes(service: ServiceSpec) -> list[str]:
    notes = []
    kinds = {Mount.TYPE_BIND: "path", Mount.TYPE_VOLUME: "volume"}
    notes += [
        f"the data of {kinds[mount.type]} {mount.source} stays on Docker's nodes"
        for mount in service.task.container.mounts
        if mount.type in kinds and mount.source
    ]
    notes += [
        f"constraint {each!r} speaks of nodes of the other swarm"
        for each in service.task.placement.constraints
        if each.strip().lower().startswith(("node.id", "node.hostname", "node.ip"))
    ]
    return notes


def _labels(nodes: list[Json]) -> list[str]:
    """Labels of nodes, by which services are placed, as the commands that give them to nodes here."""
    found = []
    for node in nodes:
        labels = (node.get("Spec") or {}).get("Labels") or {}
        hostname = (node.get("Description") or {}).get("Hostname", "")
        if labels:
            flags = " ".join(f"--label-add {key}={value}" for key, value in sorted(labels.items()))
            found.append(f"flota node update {flags} {hostname}")
    return found


def _step(kind: str, name: str, make: Any, notes: list[str]) -> Step:
    try:
        return Step(kind, name, make(), notes=tuple(notes))
    except FlotaError as refusal:
        return Step(kind, name, None, str(refusal))
