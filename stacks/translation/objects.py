"""Networks, secrets and configs of a stack, as messages. Those that are external are only named."""

from __future__ import annotations

from collections.abc import Mapping

from flota.stacks.compose.files import read_bytes
from flota.stacks.compose.tree import Map, Spot
from flota.stacks.translation.names import labels, object_name
from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec
from flota.v1.types_pb2 import Annotations, IpamConfig

# The cluster's limits: less than this.
_MOST_BYTES = {"secrets": 500 << 10, "configs": 1000 << 10}


def network_spec(stack: str, name: str, entry: Map, spot: Spot) -> NetworkSpec:
    """A network to make. Raises ComposeError."""
    spec = NetworkSpec(
        annotations=Annotations(name=object_name(stack, name, entry, spot), labels=labels(stack, entry.get("labels"))),
        ipv6_enabled=entry.get("enable_ipv6", False),
        internal=entry.get("internal", False),
        attachable=entry.get("attachable", False),
    )
    spec.driver.name = entry.get("driver") or "overlay"
    if spec.driver.name != "overlay":
        spot.of(entry, "driver").fail(
            f"networks of driver {spec.driver.name!r} are for one machine; leave it out, or say overlay"
        )
    spec.driver.options.update(entry.get("driver_opts", {}))
    ipam = entry.get("ipam", {})
    if ipam.get("driver", "default") != "default":
        spot.of(entry, "ipam").of(ipam, "driver").fail(f"the driver {ipam['driver']!r} is not known; default is")
    for config in ipam.get("config", ()):
        spec.ipam.append(
            IpamConfig(
                subnet=config.get("subnet", ""),
                range=config.get("ip_range", ""),
                gateway=config.get("gateway", ""),
                reserved=config.get("aux_addresses", {}),
            )
        )
    return spec


def secret_spec(stack: str, name: str, entry: Map, spot: Spot, environment: Mapping[str, str]) -> SecretSpec:
    """A secret to make, with its data. Raises ComposeError."""
    return SecretSpec(
        annotations=Annotations(name=object_name(stack, name, entry, spot), labels=labels(stack, entry.get("labels"))),
        data=_data("secrets", entry, spot, environment),
        template_driver=entry.get("template_driver", ""),
    )


def config_spec(stack: str, name: str, entry: Map, spot: Spot, environment: Mapping[str, str]) -> ConfigSpec:
    """A config to make, with its data. Raises ComposeError."""
    return ConfigSpec(
        annotations=Annotations(name=object_name(stack, name, entry, spot), labels=labels(stack, entry.get("labels"))),
        data=_data("configs", entry, spot, environment),
        template_driver=entry.get("template_driver", ""),
    )


def _data(section: str, entry: Map, spot: Spot, environment: Mapping[str, str]) -> bytes:
    if "file" in entry:
        key, data = "file", read_bytes(entry["file"], spot.of(entry, "file"))
    elif "environment" in entry:
        key, variable = "environment", entry["environment"]
        if variable not in environment:
            spot.of(entry, key).fail(f"the variable {variable} is not set")
        data = environment[variable].encode()
    else:
        key, data = "content", entry["content"].encode()
    most = _MOST_BYTES[section]
    if not 0 < len(data) < most:
        size = f"it has {len(data):,} bytes" if data else "it is empty"
        spot.of(entry, key).fail(f"{size}; a {section.removesuffix('s')} has 1 to {most - 1:,} bytes")
    return data
