"""One request and its answer, as the endpoints see them. No endpoint touches aiohttp for anything else but streams."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

from aiohttp import web

from flota.gateway.backend import Backend
from flota.gateway.filters import Filters
from flota.gateway.translation.fields import Fields
from flota.rpc.errors import InvalidArgument

OLDEST, NEWEST = (1, 24), (1, 48)
HEADERS = {
    "Api-Version": ".".join(map(str, NEWEST)),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"flota/{version('flota')} (linux)",
}
BACKEND = web.AppKey("backend", Backend)


class Call:
    """See the module's docstring."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.backend: Backend = request.app[BACKEND]

    @property
    def headers(self) -> dict[str, str]:
        """What every answer carries."""
        return HEADERS

    @property
    def version(self) -> tuple[int, int]:
        """The API's version the client speaks; without one in the path the newest."""
        text = self.request.match_info.get("version", "")
        if not text:
            return NEWEST
        major, _, minor = text.partition(".")
        return int(major), int(minor)

    def name(self, part: str = "id") -> str:
        """What stands in the path."""
        return self.request.match_info[part]

    def query(self, name: str) -> str:
        """A value in the query; empty when absent."""
        return self.request.query.get(name, "")

    def flag(self, name: str, default: bool = False) -> bool:
        """A value that is true or false, as Go's server reads it."""
        text = self.query(name).strip().lower()
        return text not in ("0", "no", "false", "none") if text else default

    def number(self, name: str) -> int:
        """A whole number in the query; 0 when absent. Raises InvalidArgument."""
        text = self.query(name)
        if text and not (text.isascii() and text.lstrip("-").isdigit()):
            raise InvalidArgument.of(name, text, "a whole number is needed")
        return int(text or 0)

    def filters(self, *known: str) -> Filters:
        """The query's filters. Raises InvalidArgument."""
        return Filters(self.query("filters"), known)

    def object_version(self) -> int:
        """The version that an update rests on. Raises InvalidArgument."""
        text = self.query("version")
        if not (text.isascii() and text.isdigit()):
            raise InvalidArgument.of("version", text, "the Version.Index of the object as it was read is needed")
        return int(text)

    async def body(self) -> Fields:
        """The JSON object in the body; empty when there is none. Raises InvalidArgument."""
        raw = await self.request.read()
        if not raw.strip():
            return Fields({})
        try:
            return Fields(json.loads(raw))
        except ValueError as error:
            raise InvalidArgument(f"the request's body is no JSON: {error}") from None

    def registry_auth(self) -> str:
        """X-Registry-Auth; empty when it carries no credentials."""
        text = self.request.headers.get("X-Registry-Auth", "")
        try:
            given = json.loads(base64.b64decode(text.translate(str.maketrans("-_", "+/")) + "=="))
        except ValueError:
            # Whoever uses it says what is wrong with it.
            return text
        return text if isinstance(given, dict) and any(given.values()) else ""


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
# method, path, handler
Route = tuple[str, str, Handler]


def answer(value: Any, status: int = 200) -> web.Response:
    """JSON."""
    return web.Response(
        body=json.dumps(value, separators=(",", ":")).encode() + b"\n", status=status, content_type="application/json"
    )


def nothing(status: int = 200) -> web.Response:
    """No body."""
    return web.Response(status=status)


def refusal(status: int, message: str) -> web.Response:
    """Docker's form of an error."""
    return answer({"message": message}, status)


def routes(*several: Sequence[Route]) -> list[Route]:
    """Several endpoints' routes in one list."""
    return [route for one in several for route in one]
