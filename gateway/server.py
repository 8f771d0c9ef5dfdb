"""The HTTP server: routes with and without a version, negotiation, errors in Docker's form, a log line for defects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import grpc.aio
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from flota.gateway.backend import Backend
from flota.gateway.failures import HttpFailure, failure_of
from flota.gateway.http import BACKEND, HEADERS, NEWEST, OLDEST, Call, Handler, Route, refusal
from flota.rpc.errors import FlotaError

Web = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger("gateway")
_VERSION = r"/v{version:\d+\.\d+}"
# Specs are small; only streams are large, and those are not read as a whole.
_LARGEST_BODY = 16 << 20


def application(backend: Backend, routes: Iterable[Route], counting: Callable[[int], None]) -> web.Application:
    """The application over `backend`. `counting` hears +1 and -1 as requests come and are done."""
    app = web.Application(middlewares=[_Manners(counting).around()], client_max_size=_LARGEST_BODY)
    app[BACKEND] = backend
    for method, path, handler in routes:
        for prefix in (_VERSION, ""):
            app.router.add_route(method, prefix + path, _adapted(handler))
    app.router.add_route("*", "/{tail:.*}", _adapted(_no_such_page))
    return app


def _adapted(handler: Handler) -> Web:
    async def adapted(request: web.Request) -> web.StreamResponse:
        return await handler(Call(request))

    return adapted


async def _no_such_page(call: Call) -> web.StreamResponse:
    return refusal(404, "page not found")


class _Manners:
    """What every answer has."""

    def __init__(self, counting: Callable[[int], None]) -> None:
        self._counting = counting

    def around(self) -> Middleware:
        """The middleware."""

        @web.middleware
        async def around(request: web.Request, handler: Web) -> web.StreamResponse:
            self._counting(1)
            try:
                response = await self._answered(request, handler)
            finally:
                self._counting(-1)
            if not response.prepared:
                response.headers.update(HEADERS)
            return response

        return around

    async def _answered(self, request: web.Request, handler: Web) -> web.StreamResponse:
        try:
            _check_version(request)
            return await handler(request)
        except (FlotaError, grpc.aio.AioRpcError) as error:
            failure = failure_of(error)
        except HttpFailure as error:
            failure = error
        except web.HTTPException as error:
            failure = HttpFailure(error.status, error.text or error.reason)
        except ConnectionError:
            raise
        except Exception as defect:  # noqa: BLE001 - the last gate before the wire
            _log.exception("a request failed", method=request.method, path=request.path)
            failure = HttpFailure(500, f"{type(defect).__name__}: {defect}")
        return refusal(failure.status, str(failure))


def _check_version(request: web.Request) -> None:
    asked = Call(request).version
    text = ".".join(map(str, asked))
    if asked > NEWEST:
        newest = ".".join(map(str, NEWEST))
        raise HttpFailure(400, f"client version {text} is too new. Maximum supported API version is {newest}")
    if asked < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise HttpFailure(
            400,
            f"client version {text} is too old. Minimum supported API version is {oldest}, please upgrade your client "
            "to a newer version",
        )
