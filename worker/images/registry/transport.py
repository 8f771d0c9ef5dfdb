"""Requests to one repository: TLS or not, the way through proxies, what it wants to be shown, where it sends us.

What it wants to be shown is for it alone: whoever it sends us to (blobs are often elsewhere) does not see it.
"""

import asyncio
import http.client
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from flota.rpc.errors import FlotaError
from flota.worker.images.credentials import Credentials
from flota.worker.images.registry import challenges
from flota.worker.images.registry.authorization import Authorization
from flota.worker.images.registry.configuration import Endpoint
from flota.worker.images.registry.connections import Body, Connections, Exchange, port
from flota.worker.images.registry.failures import Failures, NoWay
from flota.worker.images.registry.trust import context

_HUB, _HUB_SERVER = "docker.io", "registry-1.docker.io"
_MOST_REDIRECTS = 10
_MOST_ANSWERS = 3
_LONGEST_REFUSAL = 64 << 10
_LARGEST_TOKEN = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
# Those after which a request is made again as it was.
_REPEATED = (307, 308)
# Seconds that a registry may ask us to wait.
_LONGEST_WAIT = 30.0
# Of a blob, its own bytes: digests are of them.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "flota"}
_TROUBLES = (OSError, http.client.HTTPException, NoWay)


class Answer:
    """An answer whose content is still to come. `url` is where it came from."""

    def __init__(self, exchange: Exchange, url: str, failures: Failures) -> None:
        assert exchange.response is not None
        self.status = exchange.response.status
        self._headers = exchange.response.headers
        self.url = url
        self._exchange = exchange
        self._failures = failures

    def header(self, name: str) -> str:
        """Empty if there is none of that name."""
        return self._headers.get(name, "")

    def headers(self, name: str) -> list[str]:
        """All of that name."""
        return self._headers.getlist(name)

    async def into(self, take: Callable[[bytes], bool]) -> None:
        """Have `take` called in a thread with what comes, as it comes, until it says False.

        Raises Interrupted, and what `take` raises but OSError: whoever has those keeps them for himself.
        """
        try:
            await self._exchange.read(take)
        except _TROUBLES as error:
            raise self._failures.trouble(error) from None

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
        scopes: Sequence[str] = (),
    ) -> None:
        self.failures = failures
        self._endpoint = endpoint
        self._limit = limit
        self._threads = threads
        self._base = ""
        self._opening = asyncio.Lock()
        self._connections: Connections
        self._authorization = Authorization(endpoint.path, credentials, failures, self._ask_for_token, scopes)

    async def __aenter__(self) -> "Transport":
        """Raises RegistryUnavailable (certificates that cannot be read)."""
        trusted = await asyncio.to_thread(context, self._endpoint.host, insecure=self._endpoint.insecure)
        self._connections = Connections(trusted, self._limit, self._threads)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connections.close()

    def get(
        self, path: str, headers: Mapping[str, str], *, also: Collection[int] = ()
    ) -> AbstractAsyncContextManager[Answer]:
        """What is below v2/NAME/; see `request`."""
        return self.request("GET", path, headers, also=also)

    @asynccontextmanager
    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: Body = None, *, also: Collection[int] = ()
    ) -> AsyncIterator[Answer]:
        """Of what is below v2/NAME/, or at an address that an answer gave. Statuses from 400 are errors, but for those
        of `also`.

        Raises ImageNotFound (a manifest), PullRefused, RegistryUnavailable.
        """
        base = await self._opened()
        url = path if "://" in path else f"{base}/v2/{self._endpoint.path}/{path}"
        said = b""
        for _ in range(_MOST_ANSWERS):
            used = await self._authorization.value()
            async with self._following(method, url, headers, body, used, _origin(urlsplit(base))) as (
                answer,
                elsewhere,
            ):
                if answer.status == 401:
                    said = await self._refusal(answer)
                    # Who asks for credentials elsewhere gets none, nor a server of tokens that he names.
                    if not elsewhere and await self._authorization.answer(
                        challenges.parse(answer.headers("WWW-Authenticate")), used
                    ):
                        continue
                    raise self.failures.answer(401, said)
                if answer.status >= 400 and answer.status not in also:
                    said, wait = await self._refusal(answer), _wait(answer)
                    manifest = method == "GET" and path.startswith("manifests/")
                    raise self.failures.answer(answer.status, said, wait=wait, manifest=manifest)
                yield answer
                return
        raise self.failures.answer(401, said)

    async def check(self) -> None:
        """Whether it lets us in at all. Raises PullRefused, RegistryUnavailable."""
        async with self.request("GET", f"{await self._opened()}/v2/", {}) as answer:
            await self._refusal(answer)

    async def _opened(self) -> str:
        """Where it is: with the scheme it speaks."""
        async with self._opening:
            if not self._base:
                host = _HUB_SERVER if self._endpoint.host == _HUB else self._endpoint.host
                scheme = "https"
                if self._endpoint.insecure:
                    try:
                        async with self._request("GET", f"https://{host}/v2/", {}) as answer:
                            await self._refusal(answer)
                    except FlotaError:
                        scheme = "http"
                self._base = f"{scheme}://{host}"
            return self._base

    @asynccontextmanager
    async def _following(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body,
        authorization: str,
        origin: tuple[str, str, int],
    ) -> AsyncIterator[tuple[Answer, bool]]:
        """The answer where redirects lead, and whether that is not at `origin`."""
        redirects = _REDIRECTS if method in ("GET", "HEAD") else _REPEATED
        for _ in range(_MOST_REDIRECTS):
            where = _split(url)
            elsewhere = where is None or _origin(where) != origin
            shown = {"Authorization": authorization} if authorization and not elsewhere else {}
            async with self._request(method, url, {**headers, **shown}, body) as answer:
                location = answer.header("Location")
                if answer.status not in redirects or not location:
                    yield answer, elsewhere
                    return
                await self._refusal(answer)
            # As it is: it may be signed.
            url = urljoin(url, location)
        raise self.failures.other("it redirects without end")

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: Body = None
    ) -> AsyncIterator[Answer]:
        """Raises RegistryUnavailable."""
        where = _split(url)
        if where is None:
            raise self.failures.other(f"it leads to {url[:200]!r}, which is no address of http or https")
        try:
            exchange = await self._connections.ask(method, where, {**_HEADERS, **headers}, body)
        except _TROUBLES as error:
            raise self.failures.trouble(error) from None
        try:
            yield Answer(exchange, url, self.failures)
        finally:
            self._connections.done(exchange)

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
        if posted:
            more = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
            asking = self._request("POST", realm, more, urlencode(parameters).encode())
        else:
            # One parameter for each scope.
            scopes = parameters.get("scope", "").split()
            asked = urlencode([("scope", one) for one in scopes] + [p for p in parameters.items() if p[0] != "scope"])
            asking = self._request("GET", f"{realm}{'&' if '?' in realm else '?'}{asked}", headers)
        async with asking as answer:
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
