"""The keys of this node's WireGuard endpoint and the addresses that go with them. Pure.

A key has a generation. While one key replaces another there are two, each with a device, a UDP port and an address of
its own, told apart by whether the generation is odd; so either can be used without the other's being disturbed:

    announced   others get to know the new key, and send to it as soon as they do; we still send with the old one
    in use      everybody has had the time to hear of it: we send with it; who sent to the old one is still heard
    alone       the old one is forgotten

Each step waits for `SETTLE` seconds. WireGuard makes new session keys from these every two minutes by itself.
"""

import base64
import hashlib
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass

from flota.overlay import x25519
from flota.v1.types_pb2 import TunnelKey

# Seconds that a key is used before another takes its place, and between the steps of that.
LIFE = 12 * 3600.0
SETTLE = 60.0
# WireGuard's own, and the next one.
PORTS = (51820, 51821)
# Of the addresses within tunnels (a unique local prefix that only this node's tunnel namespace knows).
PREFIX = "fd7a:f107::"
PREFIX_LENGTH = 32
# Bytes that WireGuard adds to a packet: IPv4 or IPv6, UDP, its header and tag.
_OVERHEAD = {4: 60, 6: 80}
# What it fills packets up to a multiple of, and the MTU that wireguard-go believes its device to have.
_BLOCK, _BELIEVED_MTU = 16, 1420


@dataclass(frozen=True)
class OwnKey:
    """`private` is the raw key; `made` seconds since the epoch."""

    generation: int
    private: bytes
    made: float

    @property
    def public(self) -> bytes:
        """What others need of it."""
        return x25519.public_of(self.private)

    @property
    def port(self) -> int:
        """UDP port it is used at."""
        return PORTS[self.generation % 2]

    def told(self) -> TunnelKey:
        """As others hear of it."""
        return TunnelKey(public_key=self.public, generation=self.generation, port=self.port)


@dataclass(frozen=True)
class OwnKeys:
    """One key, or two of consecutive generations; `sending` is the generation that packets leave with."""

    keys: tuple[OwnKey, ...]
    sending: int

    @classmethod
    def first(cls, now: float) -> "OwnKeys":
        """A node's first key."""
        return cls((_new_key(1, now),), 1)

    @classmethod
    def read(cls, text: str) -> "OwnKeys":
        """What `write` wrote. Raises ValueError."""
        try:
            found = json.loads(text)
            keys = tuple(
                OwnKey(one["generation"], base64.b64decode(one["private"]), one["made"]) for one in found["keys"]
            )
            if not 1 <= len(keys) <= 2:
                raise ValueError("one or two keys are needed")
            return cls(keys, found["sending"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a node's keys: {error}") from None

    def write(self) -> str:
        """For `read`. Secret."""
        keys = [
            {"generation": one.generation, "private": base64.b64encode(one.private).decode(), "made": one.made}
            for one in self.keys
        ]
        return json.dumps({"keys": keys, "sending": self.sending})

    @property
    def newest(self) -> OwnKey:
        return self.keys[-1]

    def announce(self, now: float) -> "OwnKeys":
        """With another key. Only when there is one."""
        assert len(self.keys) == 1
        return OwnKeys((*self.keys, _new_key(self.newest.generation + 1, now)), self.sending)

    def use(self) -> "OwnKeys":
        """Sending with the newest."""
        return OwnKeys(self.keys, self.newest.generation)

    def forget(self) -> "OwnKeys":
        """With the newest only."""
        return OwnKeys((self.newest,), self.newest.generation)


def _new_key(generation: int, now: float) -> OwnKey:
    return OwnKey(generation, x25519.new_private(), now)


def tunnel_address(vtep: str, generation: int) -> str:
    """A node's address within tunnels, for one of its two keys: every node comes to the same result without asking."""
    digest = hashlib.sha256(ipaddress.ip_address(vtep).packed).digest()[:8]
    packed = ipaddress.IPv6Address(PREFIX).packed[:4] + bytes((0, 0, 0, generation % 2)) + digest
    return str(ipaddress.IPv6Address(packed))


def tunnel_mtu(underlay: int, version: int) -> int:
    """MTU of the devices between nodes, over an underlay with MTU `underlay` and endpoints of IP `version`.

    WireGuard fills packets up to a multiple of 16 bytes, but not beyond its device's MTU. wireguard-go asks for that
    where its sockets are, where the device is no longer, and keeps to the 1420 that it began with: larger packets are
    filled up by what remains of a division by that. So the largest is one that needs no filling up either way, or
    each would leave the node in two pieces.
    """
    room = underlay - _OVERHEAD[version]
    return room - room % _BELIEVED_MTU % _BLOCK


def newest(keys: Iterable[TunnelKey]) -> TunnelKey | None:
    """The key that is there to stay."""
    return max(keys, key=lambda key: key.generation, default=None)


def oldest(keys: Iterable[TunnelKey]) -> TunnelKey | None:
    """The key that everybody has known for longest."""
    return min(keys, key=lambda key: key.generation, default=None)


def configuration(own: OwnKey, peers: Iterable[tuple[str, TunnelKey]]) -> str:
    """What wg(8) is to make of a device: its key, and each key of other nodes (VXLAN endpoint, key)."""
    lines = ["[Interface]", f"PrivateKey = {_base64(own.private)}", f"ListenPort = {own.port}"]
    for vtep, key in sorted(peers, key=lambda one: (one[0], one[1].generation)):
        host = f"[{vtep}]" if ":" in vtep else vtep
        lines += [
            "[Peer]",
            f"PublicKey = {_base64(key.public_key)}",
            f"Endpoint = {host}:{key.port}",
            f"AllowedIPs = {tunnel_address(vtep, key.generation)}/128",
            # A node that hears of another greets it: a first word that came before both knew of each other would be
            # repeated only after five seconds.
            "PersistentKeepalive = 25",
        ]
    return "\n".join(lines) + "\n"


def changes(old: str, new: str) -> tuple[str, list[str]]:
    """From one configuration to another of the same device: what is to be added, and the keys of peers to remove.

    All of `new` when there is no `old`.
    """
    if not old:
        return new, []
    before, after = old.split("[Peer]\n")[1:], new.split("[Peer]\n")[1:]
    stay = {_key_of(peer) for peer in after}
    added = "".join(f"[Peer]\n{peer}" for peer in after if peer not in before)
    return added, [_key_of(peer) for peer in before if _key_of(peer) not in stay]


def _key_of(peer: str) -> str:
    return peer.partition("\n")[0].removeprefix("PublicKey = ")


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()
