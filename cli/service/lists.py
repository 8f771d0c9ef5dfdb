"""Flags that add to lists and maps, or take something out: --env-add, --env-rm and their sisters.

What is taken out goes first, what is added replaces what has the same key, and the order of the rest stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flota.cli.failures import BadFlag
from flota.cli.service import values
from flota.cli.service.scalars import read_flag
from flota.stacks.devices import parse_device
from flota.stacks.mounts import parse_mount
from flota.stacks.ports import parse_port, port_number, protocol_of
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import ConfigReference, PortConfig, SecretReference

Flags = Mapping[str, Any]


def _read(flags: Flags, name: str, read: Callable[[str], Any]) -> list[Any]:
    # What `update` calls --env-add, `create` calls --env, and a person shall read the name that was typed.
    shown = name.removesuffix("_add") if flags.get("creating") else name
    return [read_flag(shown, read, text) for text in flags.get(name) or ()]


def _change_list(
    field: Any, added: Iterable[Any], removed: Iterable[str], key: Callable[[Any], Any], missing: str = ""
) -> None:
    """Replace in a repeated field, by key. With `missing`, taking out what is not there is an error."""
    gone = set(removed)
    if missing and (unknown := gone - {key(each) for each in field}):
        raise BadFlag(f"{missing} {sorted(unknown)[0]!r}: the service does not have it")
    kept = {key(each): each for each in field if key(each) not in gone}
    for each in added:
        kept[key(each)] = each
    items = list(kept.values())
    # A copy: the items may live in the field that is about to be emptied.
    copies = [item if isinstance(item, str) else type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


def _change_map(field: Any, added: Iterable[tuple[str, str]], removed: Iterable[str]) -> None:
    for key in removed:
        field.pop(key, None)
    for key, value in added:
        field[key] = value


def _itself(text: str) -> str:
    return text


def _env_key(text: str) -> str:
    return text.partition("=")[0]


def change_lists(spec: ServiceSpec, flags: Flags, network_ids: Mapping[str, str], warnings: list[str]) -> None:
    """Apply every -add and -rm flag. `network_ids` maps names to ids, for --network-rm. Raises BadFlag."""
    container, task = spec.task.container, spec.task
    _change_map(spec.annotations.labels, _read(flags, "label_add", values.key_value), flags.get("label_rm") or ())
    _change_map(
        container.labels, _read(flags, "container_label_add", values.key_value), flags.get("container_label_rm") or ()
    )
    _change_map(container.sysctls, _read(flags, "sysctl_add", values.strict_key_value), flags.get("sysctl_rm") or ())
    if flags.get("log_opt"):
        _change_map(task.log_driver.options, _read(flags, "log_opt", values.strict_key_value), ())
    _change_list(container.env, flags.get("env_add") or (), flags.get("env_rm") or (), _env_key)
    _change_list(container.groups, flags.get("group_add") or (), flags.get("group_rm") or (), _itself)
    _change_list(
        container.hosts,
        _read(flags, "host_add", values.host),
        _read(flags, "host_rm", values.host),
        _itself,
    )
    _change_list(
        container.ulimits,
        _read(flags, "ulimit_add", values.ulimit),
        flags.get("ulimit_rm") or (),
        lambda limit: limit.name,
    )
    _change_list(
        container.devices,
        _read(flags, "device_add", parse_device),
        flags.get("device_rm") or (),
        lambda device: device.target or device.source,
        missing="--device-rm",
    )
    _change_list(
        container.mounts,
        _read(flags, "mount_add", parse_mount),
        flags.get("mount_rm") or (),
        lambda mount: mount.target,
        missing="--mount-rm",
    )
    _change_dns(spec, flags)
    _change_files(spec, flags)
    _change_capabilities(spec, flags)
    _change_placement(spec, flags)
    _change_networks(spec, flags, network_ids)
    _change_ports(spec, flags, warnings)
    if flags.get("depends_on_add") or flags.get("depends_on_rm"):
        _change_list(
            spec.depends_on,
            _read(flags, "depends_on_add", values.dependency),
            flags.get("depends_on_rm") or (),
            lambda dependency: dependency.service,
            missing="--depends-on-rm",
        )


def _change_dns(spec: ServiceSpec, flags: Flags) -> None:
    names = ("dns", "dns_search", "dns_option")
    if not any(flags.get(f"{name}_{what}") for name in names for what in ("add", "rm")):
        return
    dns = spec.task.container.dns
    fields: Sequence[tuple[str, Any, Callable[[str], str]]] = (
        ("dns", dns.nameservers, values.address),
        ("dns_search", dns.search, _itself),
        ("dns_option", dns.options, _itself),
    )
    for name, field, read in fields:
        _change_list(field, _read(flags, f"{name}_add", read), flags.get(f"{name}_rm") or (), _itself)
    if not (dns.nameservers or dns.search or dns.options):
        spec.task.container.ClearField("dns")


def _change_files(spec: ServiceSpec, flags: Flags) -> None:
    container = spec.task.container
    secrets = [
        SecretReference(secret_name=name, file=file)
        for name, file in _read(flags, "secret_add", lambda text: values.file_reference(text, ""))
    ]
    configs = [
        ConfigReference(config_name=name, file=file)
        for name, file in _read(flags, "config_add", lambda text: values.file_reference(text, "/"))
    ]
    gone_secrets, gone_configs = set(flags.get("secret_rm") or ()), set(flags.get("config_rm") or ())
    kept_secrets = [each for each in container.secrets if not {each.secret_name, each.secret_id} & gone_secrets]
    kept_configs = [each for each in container.configs if not {each.config_name, each.config_id} & gone_configs]
    if len(kept_secrets) != len(container.secrets):
        container.ClearField("secrets")
        container.secrets.extend(kept_secrets)
    if len(kept_configs) != len(container.configs):
        container.ClearField("configs")
        container.configs.extend(kept_configs)
    _change_list(container.secrets, secrets, (), lambda each: each.file.name)
    _change_list(container.configs, configs, (), lambda each: each.file.name)


def _change_capabilities(spec: ServiceSpec, flags: Flags) -> None:
    container = spec.task.container
    for name, to, other in (
        ("cap_add", container.capability_add, container.capability_drop),
        ("cap_drop", container.capability_drop, container.capability_add),
    ):
        for capability in (read_flag(name, values.capability, text) for text in flags.get(name) or ()):
            if capability == "RESET":
                del to[:]
            elif capability in other:
                other.remove(capability)  # Taking back what the other list said.
            elif capability not in to:
                to.append(capability)


def _change_placement(spec: ServiceSpec, flags: Flags) -> None:
    task = spec.task
    names = ("constraint", "placement_pref")
    if any(flags.get(f"{name}_{what}") for name in names for what in ("add", "rm")):
        placement = task.placement
        removed = _read(flags, "constraint_rm", values.constraint)
        gone = {each for each in placement.constraints if _plain(each) in removed}
        _change_list(placement.constraints, _read(flags, "constraint_add", values.constraint), gone, _itself)
        _change_list(
            placement.preferences,
            _read(flags, "placement_pref_add", values.preference),
            [each.spread.descriptor for each in _read(flags, "placement_pref_rm", values.preference)],
            lambda preference: preference.spread.descriptor,
        )
    if flags.get("generic_resource_add") or flags.get("generic_resource_rm"):
        _change_list(
            task.resources.reservations.generic,
            _read(flags, "generic_resource_add", values.generic_resource),
            flags.get("generic_resource_rm") or (),
            lambda resource: resource.kind,
        )


def _plain(constraint: str) -> str:
    return constraint.replace(" ", "")


def _change_networks(spec: ServiceSpec, flags: Flags, network_ids: Mapping[str, str]) -> None:
    added = _read(flags, "network_add", values.network)
    for attachment in added:
        attachment.target = network_ids.get(attachment.target, attachment.target)
    removed = [network_ids.get(name, name) for name in flags.get("network_rm") or ()]
    _change_list(spec.task.networks, added, removed, lambda attachment: attachment.target, missing="--network-rm")


def _change_ports(spec: ServiceSpec, flags: Flags, warnings: list[str]) -> None:
    if not flags.get("publish_add") and not flags.get("publish_rm"):
        return
    added: list[PortConfig] = []
    for ports, notes in _read(flags, "publish_add", parse_port):
        added += ports
        warnings += notes
    removed = {each for ports in _read(flags, "publish_rm", _ports_to_remove) for each in ports}
    field = spec.endpoint.ports
    gone = [_port_key(port) for port in field if (port.target_port, port.protocol) in removed]
    _change_list(field, added, gone, _port_key)


def _ports_to_remove(text: str) -> list[tuple[int, int]]:
    """TARGET[/PROTOCOL] or the form that published it."""
    if "=" in text or ":" in text:
        return [(port.target_port, port.protocol) for port in parse_port(text)[0]]
    number, slash, protocol = text.partition("/")
    return [(port_number(number, text), protocol_of(protocol, text) if slash else PortConfig.PROTOCOL_TCP)]


def _port_key(port: PortConfig) -> Any:
    return (port.target_port, port.protocol, port.published_port, port.publish_mode)
