"""What a worker tells the managers of its machine."""

import asyncio
import os
import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version

from flota.rpc import x509_facts
from flota.rpc.identity import Identity
from flota.v1.objects_pb2 import EngineDescription, NodeDescription, NodeUsage, TlsInfo
from flota.v1.process_pb2 import WorkerConfig
from flota.v1.types_pb2 import GenericResource, NodePressure, Platform, Resources, TunnelKey, Volume
from flota.worker.agent.gauge import Gauge

_VERSION = version("flota")
_MOMENT = 0.05


class Description:
    """The machine as it is told to managers. `refresh` it when something may have changed."""

    def __init__(self, make: Callable[[], NodeDescription], gauge: Gauge | None = None) -> None:
        """`gauge` tells how full the machine is, and is part of what `make` describes. Raises what `make` does."""
        self._make = make
        self._gauge = gauge
        self._soon: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self.current = make()

    def usage(self) -> NodeUsage:
        """How full the machine is now; what it is short of is news of the machine."""
        if self._gauge is None:
            return NodeUsage()
        usage = self._gauge.look()
        if tuple(self.current.pressures) != self._gauge.pressures:
            self.refresh()
        return usage

    def refresh(self) -> None:
        """Look again; whoever waits for changes hears of one."""
        now = self._make()
        if now != self.current:
            self.current = now
            self._news.set()
            self._news = asyncio.Event()

    def refresh_soon(self) -> None:
        """The same in a moment, once for all that happens until then."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_MOMENT, self._refresh_now)

    def _refresh_now(self) -> None:
        self._soon = None
        self.refresh()

    async def changed(self, known: NodeDescription) -> None:
        """Until there is another one than `known`."""
        while self.current == known:
            await self._news.wait()


def describe(
    config: WorkerConfig,
    identity: Identity | None,
    volumes: Iterable[Volume] = (),
    tunnel_keys: Iterable[TunnelKey] = (),
    wireguard: str = "",
    pressures: Iterable[NodePressure.ValueType] = (),
) -> NodeDescription:
    """The machine as it is now. Raises ValueError for a generic resource that cannot be read."""
    return NodeDescription(
        hostname=config.hostname or platform.node(),
        platform=Platform(architecture=platform.machine(), os=platform.system().lower()),
        resources=Resources(
            nano_cpus=len(os.sched_getaffinity(0)) * 1_000_000_000,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            generic=generic_resources(config.generic_resources),
        ),
        engine=EngineDescription(version=_VERSION, labels=dict(config.engine_labels)),
        tls_info=_tls_info(identity) if identity is not None else None,
        data_path_address=config.data_path_address,
        volumes=volumes,
        tunnel_keys=tunnel_keys,
        wireguard=wireguard,
        pressures=pressures,
    )


def generic_resources(words: Iterable[str]) -> list[GenericResource]:
    """ "gpu=2" is a count, "gpu=UUID1" a thing with a name. Raises ValueError."""
    result: dict[tuple[str, str], GenericResource] = {}
    for word in words:
        kind, _, value = (part.strip() for part in word.partition("="))
        if not kind or not value:
            raise ValueError(f"invalid generic resource {word!r}: KIND=NUMBER or KIND=NAME is needed")
        counted = value.isascii() and value.isdigit()
        one = GenericResource(kind=kind, count=int(value)) if counted else GenericResource(kind=kind, name=value)
        if result.setdefault((kind, one.name), one) is not one:
            raise ValueError(f"generic resource {word!r} is given twice")
    kinds = {kind for kind, name in result if name} & {kind for kind, name in result if not name}
    if kinds:
        raise ValueError(f"generic resource {min(kinds)!r} is given as a count and by name: it can be one of them")
    return list(result.values())


def _tls_info(identity: Identity) -> TlsInfo:
    issuer = x509_facts.read_issuer(identity.certificate_pem)
    return TlsInfo(
        trust_root=identity.root_pem, issuer_subject=issuer.subject_der, issuer_public_key=issuer.public_key_der
    )
