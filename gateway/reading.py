"""Reading a Docker swarm through its API, for `flota migrate`."""

from __future__ import annotations

from typing import Any

import aiohttp

from flota.gateway.migration import DockerSwarm
from flota.rpc.errors import InvalidArgument, Unavailable

# Every daemon of the last eight years speaks it.
_VERSION = "v1.30"
_LIMIT = aiohttp.ClientTimeout(total=60)


async def read_swarm(host: str) -> DockerSwarm:
    """What there is, from a manager at unix:///path or tcp://host:port. Raises InvalidArgument, Unavailable."""
    scheme, _, rest = host.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(rest)
        base = "http://docker"
    elif scheme == "tcp" and rest:
        connector, base = aiohttp.TCPConnector(), f"http://{rest}"
    else:
        raise InvalidArgument.of("--from", host, "unix:///path or tcp://host:port of a Docker manager is needed")
    async with aiohttp.ClientSession(connector=connector, timeout=_LIMIT) as session:

        async def get(kind: str) -> list[dict[str, Any]]:
            try:
                async with session.get(f"{base}/{_VERSION}/{kind}") as answer:
                    told = await answer.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                raise Unavailable(f"Docker at {host} does not answer: {error}") from None
            if answer.status != 200:
                raise Unavailable(f"Docker at {host} refuses to list its {kind}: {told.get('message', told)}")
            listed: list[dict[str, Any]] = told
            return listed

        return DockerSwarm(
            networks=await get("networks"),
            configs=await get("configs"),
            secrets=await get("secrets"),
            services=await get("services"),
            nodes=await get("nodes"),
        )
