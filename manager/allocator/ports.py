"""Published ports of the ingress mesh: one owner per protocol and port in the whole cluster.

A service that names a port gets that one or nothing; the others get one from 30000-32767. A port that did not change
keeps its number when its service changes. Host-mode ports belong to nodes; the scheduler checks them.
"""

from collections.abc import Iterable

from flota.manager.allocator.addresses import Numbers, Taken
from flota.v1.types_pb2 import PortConfig

FIRST_DYNAMIC = 30000
LAST_DYNAMIC = 32767

Key = tuple[int, int]


class Ports:
    """Which published ports are in use, per protocol."""

    def __init__(self) -> None:
        self._dynamic: dict[int, Numbers] = {}
        self._owners: dict[Key, str] = {}

    def restore(self, service_id: str, ports: Iterable[PortConfig]) -> None:
        """Take over what a service was given before."""
        for port in ports:
            if port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS and port.published_port:
                self._take(service_id, port.protocol, port.published_port)

    def assign(self, service_id: str, asked: Iterable[PortConfig], had: Iterable[PortConfig]) -> list[PortConfig]:
        """The service's ports with numbers; what it `had` and no longer needs is free afterwards.

        Raises Taken, naming the port and the service that has it, and Exhausted; then nothing has changed.
        """
        asked = list(asked)
        mesh = [port for port in had if port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS]
        before = {(port.protocol, port.published_port) for port in mesh}
        numbers = {(port.protocol, port.target_port, port.name): port.published_port for port in mesh}
        named = {(port.protocol, port.published_port) for port in asked if port.published_port}
        given: list[PortConfig] = []
        fresh: list[Key] = []
        try:
            for port in asked:
                final = PortConfig()
                final.CopyFrom(port)
                given.append(final)
                if port.publish_mode != PortConfig.PUBLISH_MODE_INGRESS:
                    continue
                number = port.published_port
                if not number:
                    kept = numbers.pop((port.protocol, port.target_port, port.name), 0)
                    number = kept if (port.protocol, kept) not in named else 0
                if not number:
                    number = self._pool(port.protocol).give()
                    self._owners[port.protocol, number] = service_id
                    fresh.append((port.protocol, number))
                elif self._owners.get((port.protocol, number)) != service_id:
                    self._take(service_id, port.protocol, number)
                    fresh.append((port.protocol, number))
                final.published_port = number
        except Exception:
            self._free(fresh)
            raise
        self._free(before - {(port.protocol, port.published_port) for port in given})
        return given

    def release(self, service_id: str) -> None:
        """The service is gone."""
        self._free([key for key, owner in self._owners.items() if owner == service_id])

    def _pool(self, protocol: int) -> Numbers:
        pool = self._dynamic.get(protocol)
        if pool is None:
            pool = self._dynamic[protocol] = Numbers(FIRST_DYNAMIC, LAST_DYNAMIC, "published port")
        return pool

    def _take(self, service_id: str, protocol: int, number: int) -> None:
        owner = self._owners.get((protocol, number))
        if owner is not None and owner != service_id:
            word = PortConfig.Protocol.Name(protocol).removeprefix("PROTOCOL_").lower()  # type: ignore[arg-type]
            raise Taken(f"port {number}/{word} is already in use by service {owner}")
        self._owners[protocol, number] = service_id
        if FIRST_DYNAMIC <= number <= LAST_DYNAMIC and number not in self._pool(protocol):
            self._pool(protocol).take(number)

    def _free(self, keys: Iterable[Key]) -> None:
        for protocol, number in keys:
            self._owners.pop((protocol, number), None)
            self._pool(protocol).free(number)
