"""Between a puller and a registry: passes requests on, but for what is held back, cut off or sent elsewhere."""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from tests.cluster.images.authority import serving


@dataclass
class Sent:
    """What a blob was asked with, and how much of it went out."""

    path: str
    range: str
    authorization: str
    status: int
    bytes: int = 0


class Proxy:
    """`address` is where it serves. What is asked for is in `paths`, and of blobs in `sent`."""

    def __init__(self, registry: str) -> None:
        self.address = ""
        self.paths: list[str] = []
        self.sent: list[Sent] = []
        self.registry = registry
        # Ends of paths whose requests wait for `give_up`, and then fail.
        self.held: set[str] = set()
        self.give_up = threading.Event()
        # After so many bytes a blob's connection is closed; one for each request, then none.
        self.cuts: list[int] = []
        # Called before a blob is asked for, and where it is cut off.
        self.before: Callable[[BaseHTTPRequestHandler], None] = lambda _: None
        self.at_cut: Callable[[], None] = lambda: None
        self.knows_ranges = True
        # Another server that blobs are at.
        self.elsewhere = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.paths.append(request.path)
        if any(request.path.endswith(end) for end in self.held):
            self.give_up.wait(60)
            request.send_error(500)
            return
        is_blob = "/blobs/" in request.path
        if is_blob:
            self.before(request)
        names = ("Accept", "Authorization", "Range") if self.knows_ranges else ("Accept", "Authorization")
        headers = {key: request.headers[key] for key in names if key in request.headers}
        asked = urllib.request.Request(f"http://{self.registry}{request.path}", headers=headers, method=request.command)
        try:
            answer = urllib.request.urlopen(asked, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            if is_blob and answer.status < 300 and self.elsewhere:
                request.send_response(307)
                request.send_header("Location", f"http://{self.elsewhere}{request.path}?signed=a%2fb|c")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(answer.status)
            for key in (
                "Content-Type",
                "Docker-Content-Digest",
                "Content-Length",
                "Content-Range",
                "Www-Authenticate",
            ):
                if key in answer.headers:
                    request.send_header(key, answer.headers[key])
            request.end_headers()
            if is_blob and answer.status < 300:
                self._blob(request, answer.status, body)
            else:
                request.wfile.write(body)

    def _blob(self, request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        one = Sent(
            request.path.partition("?")[0],
            request.headers.get("Range", ""),
            request.headers.get("Authorization", ""),
            status,
        )
        self.sent.append(one)
        # Configurations are blobs, too.
        cut = self.cuts.pop(0) if self.cuts and len(body) > 100_000 else len(body)
        with suppress(OSError):
            request.wfile.write(body[:cut])
            request.wfile.flush()
            one.bytes = cut
        if cut < len(body):
            self.at_cut()


@contextmanager
def proxy(registry: str, host: str = "127.0.0.1") -> Iterator[Proxy]:
    """One in front of a registry."""
    made = Proxy(registry)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Not on the terminal."""

    with serving(Handler, host) as made.address:
        try:
            yield made
        finally:
            made.give_up.set()
