"""What a network's spec may say. Pure; raises InvalidArgument, or Unsupported for what flota has not (yet)."""

import ipaddress
from collections.abc import Iterable

from flota.manager.control.names import check_annotations, check_network_name
from flota.rpc.errors import AlreadyExists, InvalidArgument, Unsupported
from flota.v1.network_options import ENCRYPTED_OPTION, FALSE, MTU_OPTION, PREDEFINED, TRUE
from flota.v1.objects_pb2 import Network
from flota.v1.specs_pb2 import NetworkSpec
from flota.v1.types_pb2 import IpamConfig

# IPv4 needs 68 at least (RFC 791); jumbo frames are the most there is.
_MTU_RANGE = range(68, 65536)
# Longer prefixes leave no room for a gateway and a few tasks, shorter ones are a mistake.
_PREFIX_LENGTHS = {4: range(8, 30), 6: range(16, 125)}

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_network(spec: NetworkSpec) -> None:
    """A network by itself."""
    check_network_name(spec.annotations.name)
    if spec.annotations.name in PREDEFINED:
        raise InvalidArgument.of("network name", spec.annotations.name, "every node has that one by itself")
    check_annotations(spec.annotations)
    if spec.driver.name not in ("", "overlay"):
        raise Unsupported(f"network driver {spec.driver.name!r} is not supported: only overlay is")
    for option, value in spec.driver.options.items():
        if option == ENCRYPTED_OPTION:
            if value.lower() not in (*TRUE, *FALSE):
                raise InvalidArgument.of(f"network option {option}", value, "no value, true or false is needed")
            continue
        if option != MTU_OPTION:
            raise Unsupported(
                f"network option {option!r} is not supported: only {MTU_OPTION} and {ENCRYPTED_OPTION} are"
            )
        if not value.isascii() or not value.isdigit() or int(value) not in _MTU_RANGE:
            raise InvalidArgument.of(f"network option {option}", value, "a number from 68 to 65535 is needed")
    if not spec.ipv6_enabled:
        for config in spec.ipam:
            if ":" in config.subnet:
                raise InvalidArgument.of("subnet", config.subnet, "it is for networks with IPv6 (--ipv6) only")
    if spec.ingress:
        for field, asked in (("internal", spec.internal), ("attachable", spec.attachable)):
            if asked:
                raise InvalidArgument(f"the ingress network cannot be {field}: published ports are reached through it")
    for config in spec.ipam:
        check_ipam(config)
    _check_apart([config.subnet for config in spec.ipam if config.subnet])


def check_ipam(config: IpamConfig) -> None:
    """One subnet, and what lies in it."""
    if not config.subnet:
        for field, value in (("IP range", config.range), ("gateway", config.gateway)):
            if value:
                raise InvalidArgument.of(field, value, "a subnet is needed, too")
        if config.reserved:
            raise InvalidArgument("reserved addresses are given without a subnet")
        return
    subnet = parse_subnet(config.subnet)
    if config.range:
        try:
            part = ipaddress.ip_network(config.range)
        except ValueError:
            raise InvalidArgument.of("IP range", config.range, "a network like 10.1.2.0/25 is needed") from None
        if part.version != subnet.version or not part.subnet_of(subnet):  # type: ignore[arg-type]
            raise InvalidArgument.of("IP range", config.range, f"it must lie within the subnet {subnet}")
    addresses: dict[Address, str] = {}
    named = [("gateway", config.gateway)] if config.gateway else []
    for field, text in [*named, *((f"reserved address {name}", text) for name, text in config.reserved.items())]:
        address = _host_of(subnet, field, text)
        if address in addresses:
            raise InvalidArgument.of(field, text, f"it is the {addresses[address]} already")
        addresses[address] = field


def parse_subnet(text: str) -> Subnet:
    """A subnet as a user gives it. Raises InvalidArgument."""
    try:
        subnet = ipaddress.ip_network(text)
    except ValueError:
        hint = _meant(text)
        raise InvalidArgument.of("subnet", text, f"a network like 10.1.2.0/24 is needed{hint}") from None
    lengths = _PREFIX_LENGTHS[subnet.version]
    if subnet.prefixlen not in lengths:
        raise InvalidArgument.of("subnet", text, f"a prefix length of {lengths.start} to {lengths.stop - 1} is allowed")
    if subnet.is_multicast or subnet.is_loopback or subnet.is_link_local or subnet.is_unspecified:
        raise InvalidArgument.of("subnet", text, "multicast, loopback and link-local addresses cannot be used")
    return subnet


def _meant(text: str) -> str:
    try:
        return f"; {ipaddress.ip_network(text, strict=False)} perhaps?" if "/" in text else ""
    except ValueError:
        return ""


def _host_of(subnet: Subnet, field: str, text: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument.of(field, text, f"an IPv{subnet.version} address is needed") from None
    if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
        raise InvalidArgument.of(field, text, f"an address of a host in {subnet} is needed")
    return address


def _check_apart(subnets: list[str]) -> None:
    parsed = [ipaddress.ip_network(subnet) for subnet in subnets]
    for position, one in enumerate(parsed):
        for other in parsed[:position]:
            if one.overlaps(other):
                raise InvalidArgument.of("subnet", str(one), f"it overlaps {other}, which is given as well")


def check_single_ingress(spec: NetworkSpec, networks: Iterable[Network]) -> None:
    """There is one network of published ports at most. Raises AlreadyExists."""
    there = next((network for network in networks if network.spec.ingress), None) if spec.ingress else None
    if there is not None:
        raise AlreadyExists(
            f"network {there.spec.annotations.name} is the ingress network already, and there can be only one: "
            "remove it first"
        )


def check_no_overlap(spec: NetworkSpec, networks: Iterable[Network]) -> None:
    """No subnet of `spec` overlaps one that a network has or asks for."""
    asked = [ipaddress.ip_network(config.subnet) for config in spec.ipam if config.subnet]
    if not asked:
        return
    for network in networks:
        for config in network.ipam or network.spec.ipam:
            if not config.subnet:
                continue
            used = ipaddress.ip_network(config.subnet, strict=False)
            for subnet in asked:
                if subnet.overlaps(used):
                    raise InvalidArgument.of(
                        "subnet", str(subnet), f"it overlaps {used} of network {network.spec.annotations.name}"
                    )
