"""Between a puller and a registry: passes requests on, but for what is held back."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.cluster.images.authority import serving


class Proxy:
    """`address` is where it serves. What is asked for is in `paths`."""

    def __init__(self, registry: str) -> None:
        self.address = ""
        self.paths: list[str] = []
        self.registry = registry
        # Ends of paths whose requests wait for `give_up`, and then fail.
        self.held: set[str] = set()
        self.give_up = threading.Event()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.paths.append(request.path)
        if any(request.path.endswith(end) for end in self.held):
            self.give_up.wait(60)
            request.send_error(500)
            return
        headers = {key: request.headers[key] for key in ("Accept", "Authorization", "Range") if key in request.headers}
        asked = urllib.request.Request(f"http://{self.registry}{request.path}", headers=headers, method=request.command)
        try:
            answer = urllib.request.urlopen(asked, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            request.send_response(answer.status)
            for key in ("Content-Type", "Docker-Content-Digest", "Content-Length", "Www-Authenticate"):
                if key in answer.headers:
                    request.send_header(key, answer.headers[key])
            request.end_headers()
            request.wfile.write(body)


@contextmanager
def proxy(registry: str) -> Iterator[Proxy]:
    """One in front of a registry."""
    made = Proxy(registry)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Not on the terminal."""

    with serving(Handler) as made.address:
        try:
            yield made
        finally:
            made.give_up.set()
