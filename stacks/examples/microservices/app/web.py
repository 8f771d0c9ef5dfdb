"""The little that all services share: JSON over HTTP, with nothing but the standard library."""

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PORT = 8080
Route = Callable[[dict[str, Any]], Any]


class Page(str):
    """An answer that is HTML."""


class Text(str):
    """An answer that is plain text."""


def serve(name: str, routes: dict[str, Route]) -> None:
    """Answer "METHOD /path" by calling its route with the query or JSON body; runs until SIGTERM."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            url = urlsplit(self.path)
            route = routes.get(f"{self.command} {url.path}")
            status = 200
            try:
                arguments: dict[str, Any] = dict(parse_qsl(url.query))
                if length := int(self.headers.get("Content-Length") or 0):
                    arguments |= json.loads(self.rfile.read(length))
                if route is None:
                    status, result = 404, {"error": f"{name} has no {self.command} {url.path}"}
                else:
                    result = route(arguments)
            except (KeyError, ValueError) as error:
                status, result = 400, {"error": f"{type(error).__name__}: {error}"}
            except OSError as error:
                status, result = 502, {"error": f"{name} could not reach another service: {error}"}
            if isinstance(result, (Page, Text)):
                kind, body = ("text/html" if isinstance(result, Page) else "text/plain"), result.encode()
            else:
                kind, body = "application/json", json.dumps(result).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Served-By", f"{name} {version()} on {os.uname().nodename}")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:
            print(f"{name} {version()}: {format % args}", flush=True)

    routes.setdefault("GET /health", lambda _: {"service": name, "version": version(), "healthy": True})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("", PORT), Handler)
    server.daemon_threads = True
    print(f"{name} {version()} listens on port {PORT}", flush=True)
    server.serve_forever(poll_interval=0.1)


def version() -> str:
    """Which version of the application this is: shows a rolling update at work."""
    return os.environ.get("APP_VERSION", "dev")


def ask(service: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Call another service by name; its address may be overridden by e.g. CALCULATOR_URL."""
    base = os.environ.get(f"{service.upper()}_URL", f"http://{service}:{PORT}")
    request = urllib.request.Request(base + path, None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5) as response:
        data = response.read()
        return json.loads(data) if "json" in response.headers["Content-Type"] else data.decode()
