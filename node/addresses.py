"""Where a node listens and where others reach it: what a person typed, or what this machine has.

An address is an IP address or the name of an interface, with a port where one makes sense; the rules and most of the
sentences are Docker's (moby's daemon/cluster/listen_addr.go). Interfaces are looked up only when something depends on
them.
"""

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from flota.rpc.errors import FailedPrecondition, InvalidArgument
from flota.v1.process_pb2 import NodeRecord

DEFAULT_PORT = 2377
DEFAULT_LISTEN = f"0.0.0.0:{DEFAULT_PORT}"
# Interfaces that containers, virtual machines and overlays hang on: where no other machine is reached by itself.
_INNER = frozenset({"vxlan", "wireguard", "tun", "dummy", "ipvlan", "macvtap", "geneve", "gre", "ipip", "sit"})


@dataclass(frozen=True)
class Interface:
    """An interface that is up, and its global addresses, IPv4 first. `kind` is empty for real hardware."""

    name: str
    kind: str
    addresses: tuple[str, ...]


Interfaces = Callable[[], Awaitable[Sequence[Interface]]]


async def machine_interfaces() -> list[Interface]:
    """The interfaces of this machine (of our network namespace). Raises FailedPrecondition."""
    try:
        process = await asyncio.create_subprocess_exec(
            "ip", "-json", "-details", "address", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise FailedPrecondition(f"cannot run ip (Debian's iproute2) to list addresses: {error.strerror}") from None
    output, errors = await process.communicate()
    if process.returncode:
        raise FailedPrecondition(f"cannot list this machine's addresses: {errors.decode(errors='replace').strip()}")
    return [_interface(link) for link in json.loads(output or "[]") if "UP" in link.get("flags", ())]


def _interface(link: dict[str, object]) -> Interface:
    found = []
    infos = link.get("addr_info")
    for info in infos if isinstance(infos, list) else []:
        address = ipaddress.ip_address(info.get("local", "0.0.0.0"))
        # Also a loopback's, for whoever names it; never what is only good on one link.
        if not address.is_link_local and not address.is_unspecified and not info.get("temporary"):
            found.append(address)
    details = link.get("linkinfo")
    kind = details.get("info_kind", "") if isinstance(details, dict) else ""
    if "LOOPBACK" in str(link.get("flags")):
        kind = "loopback"
    return Interface(str(link["ifname"]), kind, tuple(map(str, sorted(found, key=lambda one: one.version))))


async def listen_address(text: str, interfaces: Interfaces) -> str:
    """host:port to listen on. Raises InvalidArgument."""
    host, port = _split("listen address", text or DEFAULT_LISTEN, DEFAULT_PORT)
    return _join(await _resolve("listen address", text, host, interfaces, unspecified=True), port)


async def advertise_address(text: str, listen: str, toward: str, interfaces: Interfaces) -> str:
    """host:port where others reach us.

    When nobody says it: where we listen, if that is one address; the address with which the manager `toward` is
    reached, if there is one; else the only address there is. Raises InvalidArgument, FailedPrecondition.
    """
    listen_host, listen_port = _split("listen address", listen, DEFAULT_PORT)
    if text:
        host, port = _split("advertise address", text, listen_port)
        return _join(await _resolve("advertise address", text, host, interfaces), port)
    if not ipaddress.ip_address(listen_host).is_unspecified:
        return listen
    if toward:
        own = await asyncio.to_thread(_address_toward, toward)
        if own:
            return _join(own, listen_port)
    return _join(_only_address(await interfaces()), listen_port)


async def data_path_address(text: str, advertise: str, interfaces: Interfaces) -> str:
    """The address (no port) of our VXLAN endpoint: the advertised one unless somebody says otherwise."""
    if not text:
        return _split("advertise address", advertise, DEFAULT_PORT)[0]
    return await _resolve("data path address", text, text.strip("[]"), interfaces)


def _split(field: str, text: str, default_port: int) -> tuple[str, int]:
    """host[:port], the host of IPv6 with or without brackets."""
    host, port = text.strip(), ""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", host)
    if bracketed:
        host, port = bracketed[1], bracketed[2] if bracketed[2] is not None else str(default_port)
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    else:
        port = str(default_port)
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InvalidArgument.of(field, text, f"its port is {port!r}, a number from 1 to 65535 is needed")
    return host, int(port)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _resolve(field: str, text: str, host: str, interfaces: Interfaces, unspecified: bool = False) -> str:
    """The IP address that `host`, an address or an interface's name, stands for."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _of_interface(field, text, host, await interfaces())
    if address.is_unspecified and not unspecified:
        raise InvalidArgument.of(field, text, "it is no address that others could use")
    if address.is_multicast:
        raise InvalidArgument.of(field, text, "it is a multicast address")
    return str(address)


def _of_interface(field: str, text: str, name: str, interfaces: Sequence[Interface]) -> str:
    found = next((one for one in interfaces if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in interfaces) or "none"
        raise InvalidArgument.of(
            field, text, f"an IP address or an interface of this machine is needed (interfaces that are up: {known})"
        )
    if not found.addresses:
        raise InvalidArgument.of(field, text, f"interface {name} has no IP address")
    # IPv4 goes before IPv6.
    same = [one for one in found.addresses if (":" in one) == (":" in found.addresses[0])]
    if len(same) > 1:
        raise InvalidArgument.of(field, text, f"interface {name} has several addresses, name one: {', '.join(same)}")
    return same[0]


async def interface_with(address: str, interfaces: Interfaces) -> str:
    """Name of the interface that has the host of `address` (host:port); empty when none has, or nobody can say."""
    host = _split("advertise address", address, DEFAULT_PORT)[0]
    try:
        return next((one.name for one in await interfaces() if host in one.addresses), "")
    except FailedPrecondition:
        return ""


async def followed(record: NodeRecord, interfaces: Interfaces) -> bool:
    """Take over the address that our interface has by now, as after a new DHCP lease; True when there was one.

    Only when the old one is on no interface any more, and the new one is beyond doubt.
    """
    if not record.advertise_interface or await interface_with(record.advertise_address, interfaces):
        return False
    old, port = _split("advertise address", record.advertise_address, DEFAULT_PORT)
    try:
        new = _of_interface("advertise address", old, record.advertise_interface, await interfaces())
    except (FailedPrecondition, InvalidArgument):
        return False
    record.advertise_address = _join(new, port)
    if record.data_path_address == old:
        record.data_path_address = new
    listen, listen_port = _split("listen address", record.listen_address, DEFAULT_PORT)
    if listen == old:
        record.listen_address = _join(new, listen_port)
    return True


def _only_address(interfaces: Sequence[Interface]) -> str:
    """The one address others can reach this machine under. Raises FailedPrecondition that lists what there is."""
    able = [one for one in interfaces if one.addresses and one.kind not in (*_INNER, "loopback")]
    # A veth, a bond or a bridge may be this machine's only way out; beside real hardware with an address it is not.
    outer = [one for one in able if not one.kind] or [one for one in able if one.kind != "bridge"] or able
    for version in (4, 6):
        choice = [(one.name, text) for one in outer for text in one.addresses if (":" in text) == (version == 6)]
        if len(choice) == 1:
            return choice[0][1]
        if choice:
            where = f"on interface {choice[0][0]}"
            listed = ", ".join(text for _, text in choice)
            if len({name for name, _ in choice}) > 1:
                where, listed = "on different interfaces", ", ".join(f"{text} on {name}" for name, text in choice)
            raise FailedPrecondition(
                f"could not choose an IP address to advertise since this system has multiple addresses {where} "
                f"({listed}) - specify one with --advertise-addr"
            )
    raise FailedPrecondition("could not find the system's IP address - specify one with --advertise-addr")


def _address_toward(manager: str) -> str:
    """Our address on the way to a manager (host:port); empty when there is no way. Sends nothing."""
    host, port = _split("manager address", manager, DEFAULT_PORT)
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind, protocol) as probe:
                try:
                    probe.connect(address)
                except OSError:
                    continue
                return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        pass
    return ""
