"""A whole stack as messages: what `stack deploy` brings about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flota.stacks.compose.loading import Project
from flota.stacks.compose.tree import Map, Spot
from flota.stacks.translation.containers import Containers, platform_of
from flota.stacks.translation.ignored import ignored_keys
from flota.stacks.translation.names import IMAGE, labels, object_name, service_name
from flota.stacks.translation.objects import config_spec, network_spec, secret_spec
from flota.stacks.translation.ordering import Dependency, in_order
from flota.stacks.translation.scheduling import set_deploy
from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec
from flota.v1.types_pb2 import Annotations, NetworkAttachmentConfig


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
    # service → what it waits for when it is first deployed.
    dependencies: dict[str, list[Dependency]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def translate(project: Project, name: str) -> Stack:
    """The stack `name` of a finished project. Raises ComposeError."""
    tree = project.tree
    stack = Stack(name, warnings=[*project.warnings, *ignored_keys(tree)])
    top = Spot(tree.place, ())
    containers = Containers(name, tree, stack.warnings)
    services = tree["services"]
    spot = top.of(tree, "services")
    stack.dependencies = _dependencies(name, services, spot)
    specs: dict[str, ServiceSpec] = {}
    for key, service in services.items():
        spec = _service(name, key, service, spot.of(services, key), tree, containers)
        specs[spec.annotations.name] = spec
    _check_completions(stack.dependencies, specs, services, spot, name)
    stack.services = [specs[each] for each in in_order(specs, stack.dependencies)]
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
    if "platform" in service:
        spec.task.placement.platforms.append(platform_of(service["platform"]))
    if "logging" in service:
        logging = service["logging"]
        if "driver" not in logging and logging.get("options"):
            spot.of(service, "logging").fail("options: are given without driver:, such as json-file")
        spec.task.log_driver.name = logging.get("driver", "")
        spec.task.log_driver.options.update(logging.get("options", {}))
    spec.task.networks.extend(_attachments(name, key, service, spot, tree))
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


def _dependencies(name: str, services: Map, spot: Spot) -> dict[str, list[Dependency]]:
    found: dict[str, list[Dependency]] = {}
    for key, service in services.items():
        wanted = service.get("depends_on", {})
        here = spot.of(services, key)
        if wanted:
            found[service_name(name, key, here)] = [
                Dependency(
                    service_name(name, other, spot.of(services, other)),
                    entry["condition"],
                    here.of(service, "depends_on").of(wanted, other),
                )
                for other, entry in wanted.items()
            ]
    return found


def _check_completions(
    dependencies: dict[str, list[Dependency]], specs: dict[str, ServiceSpec], services: Map, spot: Spot, name: str
) -> None:
    """A service that is restarted whenever it ends never completes: whoever waits for that waits for ever."""
    from flota.v1.types_pb2 import RestartPolicy

    for waiting, wanted in dependencies.items():
        for dependency in wanted:
            spec = specs[dependency.service]
            if dependency.condition != "service_completed_successfully":
                continue
            job = spec.WhichOneof("mode") in ("replicated_job", "global_job")
            if not job and spec.task.restart.condition == RestartPolicy.CONDITION_ANY:
                dependency.spot.fail(
                    f"{waiting} would wait for ever: {dependency.service} is restarted whenever it ends; give it "
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
