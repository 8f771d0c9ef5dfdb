"""Published ports as people write them: `8080:80/udp`, `3000-3005:3000-3005`, `target=80,published=8080,mode=host`."""

from __future__ import annotations

from flota.stacks.errors import BadValue, did_you_mean
from flota.v1.types_pb2 import PortConfig

SHORT_FORM = "[PUBLISHED:]TARGET[/tcp|udp|sctp] is needed, such as 8080:80 or 53:53/udp"
_LONG_KEYS = ("target", "published", "protocol", "mode", "name", "proxy-protocol")
# Compose files have no word of their own for it.
PROXY_PROTOCOL = "x-proxy-protocol"
PROTOCOLS = {
    "tcp": PortConfig.PROTOCOL_TCP,
    "udp": PortConfig.PROTOCOL_UDP,
    "sctp": PortConfig.PROTOCOL_SCTP,
}
PROXY_PROTOCOLS = {"v1": PortConfig.PROXY_PROTOCOL_V1, "v2": PortConfig.PROXY_PROTOCOL_V2}
MODES = {"ingress": PortConfig.PUBLISH_MODE_INGRESS, "host": PortConfig.PUBLISH_MODE_HOST}


def parse_port(text: str) -> tuple[list[PortConfig], list[str]]:
    """The ports of a short or long form, and warnings for people. Raises BadValue."""
    if "=" in text:
        return [_long(text)], []
    return _short(text)


def port_number(text: str, whole: object, zero: bool = False) -> int:
    """A port's number; 0 (choose one) only with `zero`. `whole` is what the error shows."""
    if not text.isascii() or not text.isdigit() or not (0 if zero else 1) <= int(text) <= 65535:
        raise BadValue(whole, f"{text!r} is not a port from {0 if zero else 1} to 65535")
    return int(text)


def protocol_of(text: str, whole: object) -> PortConfig.Protocol.ValueType:
    """tcp, udp or sctp."""
    if text.lower() not in PROTOCOLS:
        raise BadValue(whole, f"the protocol {text!r} is not one of tcp, udp, sctp")
    return PROTOCOLS[text.lower()]


def mode_of(text: str, whole: object) -> PortConfig.PublishMode.ValueType:
    """ingress or host."""
    if text.lower() not in MODES:
        raise BadValue(whole, f"the mode {text!r} is not one of ingress, host")
    return MODES[text.lower()]


def proxy_protocol_of(text: str, whole: object) -> PortConfig.ProxyProtocol.ValueType:
    """v1 or v2."""
    if text.lower() not in PROXY_PROTOCOLS:
        raise BadValue(whole, f"the PROXY protocol {text!r} is not one of {', '.join(PROXY_PROTOCOLS)}")
    return PROXY_PROTOCOLS[text.lower()]


def _short(text: str) -> tuple[list[PortConfig], list[str]]:
    ports, _, protocol_text = text.partition("/")
    protocol = protocol_of(protocol_text, text) if "/" in text else PortConfig.PROTOCOL_TCP
    front, _, target = ports.rpartition(":")
    address, _, published = front.rpartition(":")
    warnings = []
    if address and address not in ("0.0.0.0", "[::]"):
        warnings.append(f"port {text}: the address {address} is ignored, every node listens on all of its addresses")
    targets = _range(target, text)
    if not published:
        return [PortConfig(protocol=protocol, target_port=port) for port in targets], warnings
    publisheds = _range(published, text, zero=True)
    if len(publisheds) != len(targets):
        raise BadValue(text, "both ranges of ports must have the same length")
    return [
        PortConfig(protocol=protocol, target_port=target_port, published_port=published_port)
        for target_port, published_port in zip(targets, publisheds, strict=True)
    ], warnings


def _range(text: str, whole: str, zero: bool = False) -> range:
    if not text:
        raise BadValue(whole, SHORT_FORM)
    first, dash, last = text.partition("-")
    start = port_number(first, whole, zero)
    end = port_number(last, whole, zero) if dash else start
    if end < start:
        raise BadValue(whole, f"the range {text!r} ends before it begins")
    return range(start, end + 1)


def _long(text: str) -> PortConfig:
    port = PortConfig()
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        match key.lower():
            case _ if not equals or not value:
                raise BadValue(text, f"{part!r} must be key=value")
            case "target":
                port.target_port = port_number(value, text)
            case "published":
                port.published_port = port_number(value, text, zero=True)
            case "protocol":
                port.protocol = protocol_of(value, text)
            case "mode":
                port.publish_mode = mode_of(value, text)
            case "name":
                port.name = value
            case "proxy-protocol":
                port.proxy_protocol = proxy_protocol_of(value, text)
            case _:
                raise BadValue(text, f"the key {key!r} is not known{did_you_mean(key, _LONG_KEYS)}")
    if not port.target_port:
        raise BadValue(text, "target=PORT is missing")
    return port
