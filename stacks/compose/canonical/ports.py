"""Readers of published ports, short and long."""

from __future__ import annotations

import ipaddress
from typing import Any

from flota.stacks.compose.tree import Items, Map, Spot, text_of
from flota.stacks.errors import BadValue
from flota.stacks.ports import (
    MODES,
    PROTOCOLS,
    PROXY_PROTOCOL,
    mode_of,
    parse_port,
    port_number,
    protocol_of,
    proxy_protocol_of,
)
from flota.v1.types_pb2 import PortConfig

_PROTOCOL_WORDS = {number: word for word, number in PROTOCOLS.items()}
_MODE_WORDS = {number: word for word, number in MODES.items()}


def ports(value: Any, spot: Spot) -> Items:
    """A list of {target, published, protocol, mode, …}; a range becomes one entry for each port."""
    made = Items(value.place)
    for index, each in enumerate(value):
        here = spot.of(value, index)
        try:
            entries = [_long_port(each)] if isinstance(each, Map) else _short_ports(text_of(each), here)
        except BadValue as error:
            raise here.bad(error) from None
        for entry in entries:
            made.put(entry, here.place)
    return made


def _short_ports(text: str, spot: Spot) -> list[Map]:
    if "=" in text:
        raise BadValue(text, "in a file the long form is a mapping with target:, published:, protocol:, mode:")
    configs, _ = parse_port(text)
    front, _, _ = text.partition("/")[0].rpartition(":")
    address = front.rpartition(":")[0].strip("[]")
    entries = []
    for config in configs:
        entry = Map(spot.place)
        if address:
            entry.put("host_ip", _address(address, text))
        _put_port(entry, config)
        entries.append(entry)
    return entries


def _put_port(entry: Map, config: PortConfig) -> None:
    entry.put("target", config.target_port)
    if config.published_port:
        entry.put("published", str(config.published_port))
    entry.put("protocol", _PROTOCOL_WORDS[config.protocol])
    entry.put("mode", _MODE_WORDS[config.publish_mode])


def _address(text: str, whole: object) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise BadValue(whole, f"{text!r} is not an IP address") from None


def _long_port(entry: Map) -> Map:
    shown = " ".join(f"{key}={text_of(value)}" for key, value in entry.items())
    published = text_of(entry.get("published") or "0")
    if "-" in published:
        raise BadValue(shown, "published takes one port here; write an entry for each, or the short form for a range")
    config = PortConfig(
        target_port=port_number(text_of(entry["target"]), shown),
        published_port=port_number(published, shown, zero=True),
        protocol=protocol_of(entry.get("protocol", "tcp"), shown),
        publish_mode=mode_of(entry.get("mode", "ingress"), shown),
    )
    if PROXY_PROTOCOL in entry:
        config.proxy_protocol = proxy_protocol_of(text_of(entry[PROXY_PROTOCOL]), shown)
        entry[PROXY_PROTOCOL] = text_of(entry[PROXY_PROTOCOL]).lower()
    if entry.get("host_ip"):
        entry["host_ip"] = _address(entry["host_ip"].strip("[]"), shown)
    entry.drop("published")
    _put_port(entry, config)
    return entry
