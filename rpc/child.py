"""A child process's words to the daemon, and its metrics (proto/flota/v1/process.proto)."""

import sys
from contextlib import AsyncExitStack

import structlog
from prometheus_client import start_http_server

_log = structlog.get_logger("process")


def ready() -> None:
    """Tell the daemon that this process is able to serve."""
    _say("ready")


def failed(reason: str) -> int:
    """Tell the daemon why it is not; gives the exit status."""
    _say(f"failed {' '.join(reason.split())}")
    return 1


def serve_metrics(address: str, stack: AsyncExitStack) -> None:
    """Serve /metrics on host:port (empty = not at all) until `stack` closes.

    A process without is better than none, so a port that is taken is only logged.
    """
    if not address:
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "0.0.0.0")
    except OSError as error:
        _log.warning("no metrics", address=address, reason=error.strerror or str(error))
        return
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
