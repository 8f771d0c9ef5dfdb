"""A whole stack as messages: what `stack deploy` brings about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flota.stacks.compose.loading import Project
from flota.stacks.compose.tree import Map, Spot
from flota.stacks.extension import set_extension
from flota.stacks.translation.containers import Containers, platform_of
from flota.stacks.translation.ignored import ignored_keys
from flota.stacks.translation.names import IMAGE, labels, object_name, scoped, service_name
from flota.stacks.translation.objects import config_spec, network_spec, secret_spec
from flota.stacks.translation.ordering import CONDITIONS, Cycle, in_order
from flota.stacks.translation.scheduling import set_deploy
from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec
from flota.v1.types_pb2 import Annotations, NetworkAttachmentConfig, RestartPolicy


@dataclass
class Stack:
    """What shall be. Services stand in the order in which they are to be deployed; all names are the cluster's."""

    name: str
    services: list[ServiceSpec] = field(default_factory=list)
    networks: list[NetworkSpec] = field(default_factory=list)
    secrets: list[SecretSpec] = field(default_factory=list)
    configs: list[ConfigSpec] = field(default_factory=list)
    # What must be there already: (network, secret or config; name).
    external: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def translate(project: Project, name: str) -> Stack:
    """The stack `name` of a finished project. Raises ComposeError."""
    tree = project.tree
    stack = Stack(name, warnings=[*project.warnings, *ignored_keys(tree)])
    top = Spot(tree.place, ())
    containers = Containers(name, tree, stack.warnings)
    services = tree["services"]
    spot = top.of(tree, "services")
    specs: dict[str, ServiceSpec] = {}
    for key, service in services.items():
        spec = _service(name, key, service, spot.of(services, key), tree, containers)
        specs[spec.annotations.name] = spec
        _scope_constraints(spec, name, services)
    _check_completions(name, services, specs, spot)
    stack.services = _in_order(name, services, specs, spot)
    _warn_of_addresses(services, stack.warnings)
    _add_objects(stack, project, top)
    return stack


def _service(name: str, key: str, service: Map, spot: Spot, tree: Map, containers: Containers) -> ServiceSpec:
    full = service_name(name, key, spot)
    deploy = service.get("deploy", {})
    spec = ServiceSpec(annotations=Annotations(name=full, labels=labels(name, deploy.get("labels"))))
    spec.annotations.labels[IMAGE] = service["image"]
    spec.task.container.CopyFrom(containers.container(key, service, spot))
    set_deploy(spec, service, spot)
    set_extension(spec, service, spot)
    if "platform" in service:
        spec.task.placement.platforms.append(platform_of(service["platform"]))
    if "logging" in service:
        logging = service["logging"]
        if not logging.get("driver") and logging.get("options"):
            spot.of(service, "logging").fail("options: are given without driver:, such as json-file")
        if logging.get("driver"):
            spec.task.log_driver.name = logging["driver"]
            spec.task.log_driver.options.update(logging.get("options", {}))
    spec.task.networks.extend(_attachments(name, key, service, spot, tree))
    _set_dependencies(spec, name, service)
    return spec


def _attachments(name: str, key: str, service: Map, spot: Spot, tree: Map) -> list[NetworkAttachmentConfig]:
    """The networks of a service; on each it is found by its own name, too."""
    made = []
    attachments: Map = service["networks"]
    for network, attachment in attachments.items():
        entry: Map = tree["networks"][network]
        target = object_name(name, network, entry, spot.of(service, "networks").of(attachments, network))
        aliases = dict.fromkeys([*attachment.get("aliases", ()), key])
        addresses = [attachment[family] for family in ("ipv4_address", "ipv6_address") if family in attachment]
        made.append(
            NetworkAttachmentConfig(
                target=target,
                aliases=aliases,
                addresses=addresses,
                driver_options=attachment.get("driver_opts", {}),
            )
        )
    return sorted(made, key=lambda attachment: attachment.target)


def _set_dependencies(spec: ServiceSpec, name: str, service: Map) -> None:
    for other, entry in sorted(service.get("depends_on", {}).items()):
        spec.depends_on.add(service=scoped(name, other), condition=CONDITIONS[entry["condition"]])


def _scope_constraints(spec: ServiceSpec, name: str, services: Iterable[str]) -> None:
    """service.KEY==same-node of a service in the file is about that service in the swarm: service.STACK_key."""
    keys = {f"service.{key}".lower(): f"service.{scoped(name, key)}" for key in services}
    constraints = spec.task.placement.constraints
    for index, text in enumerate(constraints):
        key, operator, value = text.partition("!=" if "!=" in text else "==")
        constraints[index] = f"{keys.get(key.lower(), key)}{operator}{value}"


def _in_order(name: str, services: Map, specs: dict[str, ServiceSpec], spot: Spot) -> list[ServiceSpec]:
    wanted = {full: [each.service for each in spec.depends_on] for full, spec in specs.items()}
    try:
        return [specs[full] for full in in_order(specs, wanted)]
    except Cycle as cycle:
        last, first = (full.removeprefix(f"{name}_") for full in cycle.names[-2:])
        raise _dependency_spot(services, last, first, spot).error(str(cycle)) from None


def _dependency_spot(services: Map, service: str, other: str, spot: Spot) -> Spot:
    waiting: Map = services[service]
    return spot.of(services, service).of(waiting, "depends_on").of(waiting["depends_on"], other)


def _check_completions(name: str, services: Map, specs: dict[str, ServiceSpec], spot: Spot) -> None:
    """A service that is restarted whenever it ends never completes: whoever waits for that waits for ever."""
    for key, service in services.items():
        for other, entry in service.get("depends_on", {}).items():
            spec = specs[scoped(name, other)]
            job = spec.WhichOneof("mode") in ("replicated_job", "global_job")
            if entry["condition"] != "service_completed_successfully" or job:
                continue
            if spec.task.restart.condition == RestartPolicy.CONDITION_ANY:
                _dependency_spot(services, key, other, spot).fail(
                    f"{key} would wait for ever: {other} is restarted whenever it ends; give it "
                    "deploy.mode: replicated-job, or deploy.restart_policy.condition: on-failure or none"
                )


def _warn_of_addresses(services: Map, warnings: list[str]) -> None:
    users: dict[str, list[str]] = {}
    for key, service in services.items():
        for port in service.get("ports", ()):
            if port.get("host_ip", "0.0.0.0") not in ("0.0.0.0", "::"):
                users.setdefault(port["host_ip"], []).append(f"{key} {port.get('published', port['target'])}")
    for address, ports in users.items():
        warnings.append(
            f"the address {address} of ports ({', '.join(ports)}) is ignored: every node listens on all its addresses"
        )


def _used(services: Iterable[Map], key: str) -> set[str]:
    return {name for service in services for name in service.get(key, ())}


def _add_objects(stack: Stack, project: Project, top: Spot) -> None:
    """Networks that services are on, and all secrets and configs."""
    tree = project.tree
    used = _used(tree["services"].values(), "networks")
    for section in ("networks", "secrets", "configs"):
        entries = tree.get(section, Map(tree.place))
        spot = top.of(tree, section)
        for key, entry in sorted(entries.items()):
            here = spot.of(entries, key)
            if section == "networks" and key not in used:
                continue
            if entry.get("external"):
                stack.external.append((section.removesuffix("s"), object_name(stack.name, key, entry, here)))
            elif section == "networks":
                stack.networks.append(network_spec(stack.name, key, entry, here))
            elif section == "secrets":
                stack.secrets.append(secret_spec(stack.name, key, entry, here, project.environment))
            else:
                stack.configs.append(config_spec(stack.name, key, entry, here, project.environment))
