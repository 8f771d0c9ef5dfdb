"""`python -m flota.gateway`: started by the daemon when somebody first asks on RUN/docker.sock, with that socket.

The daemon keeps the listening socket; this process accepts on it. It ends when its standard input does, or when nobody
has asked for a while: the next request starts another one. What waits on the socket meanwhile is not lost.
"""

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path

from flota.gateway.process import serve
from flota.rpc.logging import configure


def main() -> int:
    """Answer until standard input ends; gives the exit status."""
    parser = argparse.ArgumentParser(prog="flota.gateway", allow_abbrev=False)
    parser.add_argument("--daemon", required=True, help="unix:///path of the daemon's socket")
    parser.add_argument("--plain", type=int, help="descriptor of the unix socket to accept on")
    parser.add_argument("--secure", type=int, help="descriptor of the socket for other machines")
    parser.add_argument("--tls", type=Path, default=Path(), help="directory of ca.pem, cert.pem and key.pem for it")
    parser.add_argument("--idle", type=float, default=600.0, help="seconds without requests after which it ends")
    given = parser.parse_args()
    # A ^C in the daemon's terminal is the daemon's business: it tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure("gateway", os.uname().nodename)
    gc.collect()
    gc.freeze()
    plain = socket.socket(fileno=given.plain) if given.plain is not None else None
    secure = socket.socket(fileno=given.secure) if given.secure is not None else None
    return asyncio.run(serve(plain, secure, given.tls, given.daemon, given.idle))


if __name__ == "__main__":
    sys.exit(main())
