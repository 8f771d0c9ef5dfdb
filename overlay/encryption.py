"""Encryption as Network sees it: the tunnels, their keys and who is at the other end, on the event loop.

Which keys there are is tunnel_keys.py's business, when they change key_rotation.py's, what the kernel has tunnels.py's.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from flota.overlay.errors import OverlayError
from flota.overlay.forwarding import tunnel_end
from flota.overlay.kernel import KernelThread
from flota.overlay.key_rotation import Rotation
from flota.overlay.model import Model
from flota.overlay.tunnel_keys import LIFE, SETTLE, OwnKeys, newest
from flota.overlay.tunnels import Tunnels
from flota.overlay.underlay import Underlay
from flota.v1.dispatcher_pb2 import NetworkPeer
from flota.v1.network_options import is_encrypted
from flota.v1.types_pb2 import TunnelKey

log = logging.getLogger(__name__)


class Encryption:
    """Owned by one Network. `key_life` and `key_settle` are seconds (tunnel_keys.LIFE, SETTLE)."""

    def __init__(self, model: Model, key_life: float = LIFE, key_settle: float = SETTLE) -> None:
        self._model = model
        self._key_times = (key_life, key_settle)
        # Keys of others that there are sessions with, as of when some had two; and whether some of those had none yet.
        self._greeted: set[bytes] = set()
        self._waits = False
        # What carries it on this machine: "kernel", "wireguard-go", or "" for nothing.
        self.implementation = ""
        # Called when there is something new to tell of `told_keys`.
        self.keys_changed: Callable[[], None] = lambda: None

    async def start(self, run_directory: Path, underlay: Underlay, kernel: KernelThread) -> Tunnels:
        """Find or make the node's keys, and replace them when it is time. `stop` ends that."""
        self._kernel = kernel
        self._tunnels = await kernel.call(Tunnels, run_directory, underlay.home, underlay.address, underlay.mtu)
        self.implementation = await kernel.call(self._tunnels.implementation)
        life, settle = self._key_times
        self.rotation = Rotation(
            lambda: self._tunnels.keys,
            self._change_keys,
            lambda: kernel.call(self._tunnels.repair),
            life=life,
            settle=settle,
        )
        self._rotating = asyncio.create_task(self.rotation.run(), name="overlay-keys")
        return self._tunnels

    async def stop(self) -> None:
        """Keys are not replaced any longer; tunnels stay."""
        self._rotating.cancel()
        await asyncio.gather(self._rotating, return_exceptions=True)

    @property
    def told_keys(self) -> list[TunnelKey]:
        """What other nodes need to know of this one's keys; empty where nothing can encrypt."""
        return [key.told() for key in self._tunnels.keys.keys] if self.implementation else []

    @property
    def sending(self) -> int:
        """The generation of the key that packets leave with."""
        return self._tunnels.keys.sending

    def covers(self, network_id: str) -> bool:
        """Whether a network is encrypted."""
        network = self._model.networks.get(network_id)
        return network is not None and is_encrypted(network.spec)

    async def program(self, network_ids: Iterable[str]) -> None:
        """Have tunnels to every node that shares one of these networks, if it is encrypted. Raises OverlayError."""
        peers = {
            peer.vtep: tuple(peer.tunnel_keys)
            for network_id in filter(self.covers, network_ids)
            for peer in self._model.peers(network_id)
            if peer.vtep and peer.tunnel_keys
        }
        await self._kernel.call(self._tunnels.program, peers)
        replaced = [newest(keys) for keys in peers.values() if len(keys) > 1]
        if replaced:
            self._greeted = await self._kernel.call(self._tunnels.greeted)
        self._waits = any(key is not None and key.public_key not in self._greeted for key in replaced)

    def end_of(self, peer: NetworkPeer) -> str:
        """Where packets for a peer go: its node's address within WireGuard; "" while there is none."""
        return tunnel_end(peer, self._greeted)

    async def follow(self, dirty: set[str], in_use: Iterable[str]) -> set[str]:
        """The same after changes of the networks `dirty`; returns those of them that have to be tried again."""
        encrypted = set(filter(self.covers, dirty))
        if not encrypted:
            return set()
        try:
            await self.program(in_use)
        except (OverlayError, OSError) as error:
            log.warning("tunnels: %s", error)
            return encrypted
        # Keys that there is no session with yet are looked at again.
        return encrypted if self._waits else set()

    async def _change_keys(self, keys: OwnKeys) -> None:
        await self._kernel.call(self._tunnels.change, keys)
        self.keys_changed()
