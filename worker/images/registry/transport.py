"""Requests to one repository: TLS or not, the way through proxies, what it wants to be shown, where it sends us.

What it wants to be shown is for it alone: whoever it sends us to (blobs are often elsewhere) does not see it.
"""

import asyncio
import http.client
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from flota.rpc.errors import FlotaError
from flota.worker.images.credentials import Credentials
from flota.worker.images.registry import challenges
from flota.worker.images.registry.authorization import Authorization
from flota.worker.images.registry.configuration import Endpoint
from flota.worker.images.registry.connections import (
    Connection,
    NoWay,
    connect,
    host_header,
    port,
    proxy_for,
    proxy_headers,
)
from flota.worker.images.registry.failures import Failures
from flota.worker.images.registry.trust import context

_HUB, _HUB_SERVER = "docker.io", "registry-1.docker.io"
_MOST_REDIRECTS = 10
_MOST_ANSWERS = 3
_LONGEST_REFUSAL = 64 << 10
_LARGEST_TOKEN = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
# Seconds that a registry may ask us to wait.
_LONGEST_WAIT = 30.0
# Of a blob, its own bytes: digests are of them.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "flota"}
_TROUBLES = (OSError, http.client.HTTPException, NoWay)


class Answer:
    """An answer whose content is still to come."""

    def __init__(self, response: http.client.HTTPResponse, connection: Connection, failures: Failures) -> None:
        self.status = response.status
        self._response = response
        self._connection = connection
        self._failures = failures

    def header(self, name: str) -> str:
        """Empty if there is none of that name."""
        return self._response.getheader(name, "")

    def headers(self, name: str) -> list[str]:
        """All of that name."""
        return self._response.headers.get_all(name, [])

    async def into(self, take: Callable[[bytes], bool]) -> None:
        """Have `take` called in a thread with what comes, as it comes, until it says False.

        Raises Interrupted, and what `take` raises but OSError: whoever has those keeps them for himself.
        """
        stopped = False

        def taken(part: bytes) -> bool:
            nonlocal stopped
            stopped = not take(part)
            return not stopped

        try:
            whole = await self._connection.read(taken)
        except _TROUBLES as error:
            raise self._failures.trouble(error) from None
        if not whole and not stopped:
            raise self._failures.broken("the connection ended too early")

    async def document(self, largest: int) -> bytes:
        """All of it. Raises RegistryUnavailable."""
        data = bytearray()

        def take(part: bytes) -> bool:
            data.extend(part)
            return len(data) <= largest

        await self.into(take)
        if len(data) > largest:
            raise self._failures.other(f"a document of more than {largest >> 10} KiB")
        return bytes(data)


class Transport:
    """One endpoint, as long as the block lasts. `limit` are seconds without a byte; `threads` wait for them."""

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials | None,
        failures: Failures,
        limit: float,
        threads: Executor,
    ) -> None:
        self.failures = failures
        self._endpoint = endpoint
        self._limit = limit
        self._threads = threads
        self._base = ""
        self._opening = asyncio.Lock()
        self._trusted: ssl.SSLContext
        self._free: dict[tuple[str, str, int], list[Connection]] = {}
        self._authorization = Authorization(endpoint.path, credentials, failures, self._ask_for_token)

    async def __aenter__(self) -> "Transport":
        """Raises RegistryUnavailable (certificates that cannot be read)."""
        self._trusted = await asyncio.to_thread(context, self._endpoint.host, insecure=self._endpoint.insecure)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connections in self._free.values():
            for one in connections:
                one.close()
        self._free.clear()

    @asynccontextmanager
    async def get(self, path: str, headers: Mapping[str, str], *, also: tuple[int, ...] = ()) -> AsyncIterator[Answer]:
        """What is below v2/NAME/. Statuses from 400 are errors, but for those of `also`.

        Raises ImageNotFound (a manifest), PullRefused, RegistryUnavailable.
        """
        url = f"{await self._opened()}/v2/{self._endpoint.path}/{path}"
        for _ in range(_MOST_ANSWERS):
            used = await self._authorization.value()
            async with self._following(url, headers, used) as (answer, elsewhere):
                if answer.status == 401:
                    body = await self._refusal(answer)
                    # Who asks for credentials elsewhere gets none, nor a server of tokens that he names.
                    if not elsewhere and await self._authorization.answer(
                        challenges.parse(answer.headers("WWW-Authenticate")), used
                    ):
                        continue
                    raise self.failures.answer(401, body)
                if answer.status >= 400 and answer.status not in also:
                    body, wait = await self._refusal(answer), _wait(answer)
                    raise self.failures.answer(answer.status, body, wait=wait, manifest=path.startswith("manifests/"))
                yield answer
                return
        raise self.failures.refusal("it asks for other credentials again and again")

    async def _opened(self) -> str:
        """Where it is: with the scheme it speaks."""
        async with self._opening:
            if not self._base:
                host = _HUB_SERVER if self._endpoint.host == _HUB else self._endpoint.host
                scheme = "https"
                if self._endpoint.insecure:
                    try:
                        async with self._request(f"https://{host}/v2/", {}) as answer:
                            await self._refusal(answer)
                    except FlotaError:
                        scheme = "http"
                self._base = f"{scheme}://{host}"
            return self._base

    @asynccontextmanager
    async def _following(
        self, url: str, headers: Mapping[str, str], authorization: str
    ) -> AsyncIterator[tuple[Answer, bool]]:
        """The answer where redirects lead, and whether that is elsewhere."""
        origin = _origin(urlsplit(url))
        for _ in range(_MOST_REDIRECTS):
            where = _split(url)
            elsewhere = where is None or _origin(where) != origin
            shown = {"Authorization": authorization} if authorization and not elsewhere else {}
            async with self._request(url, {**headers, **shown}) as answer:
                location = answer.header("Location")
                if answer.status not in _REDIRECTS or not location:
                    yield answer, elsewhere
                    return
                await self._refusal(answer)
            # As it is: it may be signed.
            url = urljoin(url, location)
        raise self.failures.other("it redirects without end")

    @asynccontextmanager
    async def _request(
        self, url: str, headers: Mapping[str, str], posted: Mapping[str, str] | None = None
    ) -> AsyncIterator[Answer]:
        """Raises RegistryUnavailable."""
        where = _split(url)
        if where is None:
            raise self.failures.other(f"it leads to {url[:200]!r}, which is no address of http or https")
        method, body, more = "GET", None, {}
        if posted is not None:
            method, body = "POST", urlencode(posted).encode()
            more = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
        try:
            connection, response = await self._ask(where, method, {**_HEADERS, **more, **headers}, body)
        except _TROUBLES as error:
            raise self.failures.trouble(error) from None
        try:
            yield Answer(response, connection, self.failures)
        finally:
            if connection.is_free:
                self._free.setdefault(_origin(where), []).append(connection)
            else:
                # Not read to its end: it may be long.
                connection.close()

    async def _ask(
        self, url: SplitResult, method: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """Over a connection that is there, or a new one."""
        headers = {"Host": host_header(url), **headers}
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        if url.scheme == "http" and (proxy := proxy_for(url)) is not None:
            target = f"http://{host_header(url)}{target}"
            headers |= proxy_headers(proxy)
        while free := self._free.get(_origin(url)):
            connection = free.pop()
            try:
                return connection, await connection.request(method, target, headers, body)
            except TimeoutError:
                connection.close()
                raise
            except (OSError, http.client.HTTPException):
                # The server has closed it meanwhile.
                connection.close()
            except BaseException:
                connection.close()
                raise
        connection = await connect(url, self._trusted, self._limit, self._threads)
        try:
            return connection, await connection.request(method, target, headers, body)
        except BaseException:
            connection.close()
            raise

    async def _refusal(self, answer: Answer) -> bytes:
        """What it says of itself."""
        said = bytearray()

        def take(part: bytes) -> bool:
            # To its end if that is near, so that the connection serves on.
            said.extend(part)
            return len(said) < _LONGEST_REFUSAL

        with suppress(FlotaError):
            await answer.into(take)
        return bytes(said)

    async def _ask_for_token(
        self, realm: str, parameters: Mapping[str, str], headers: Mapping[str, str], posted: bool
    ) -> tuple[int, bytes]:
        url = realm if posted else f"{realm}{'&' if '?' in realm else '?'}{urlencode(parameters)}"
        async with self._request(url, headers, parameters if posted else None) as answer:
            return answer.status, await answer.document(_LARGEST_TOKEN)


def _split(url: str) -> SplitResult | None:
    """None if it cannot be asked for."""
    try:
        found = urlsplit(url)
        # Raises what is no port.
        usable = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        return None
    # What http.client would refuse, and what would be another request.
    plain = url.isascii() and url.isprintable() and " " not in url
    return found if usable and plain else None


def _origin(url: SplitResult) -> tuple[str, str, int]:
    return url.scheme, url.hostname or "", port(url)


def _wait(answer: Answer) -> float:
    text = answer.header("Retry-After")
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdigit() else 0.0
