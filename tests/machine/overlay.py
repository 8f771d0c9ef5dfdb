"""The kernel's WireGuard and SCTP: nothing readable on the wire, keys replaced under load, a published SCTP port.

Two nodes in network namespaces of one machine, as in tests/cluster/overlay, whose tests these are in part.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.cluster import waiting
from tests.cluster.overlay import machines as nodes
from tests.machine.telling import end, must, say, tried

# The machine may be so much slower than those that the tests' limits are for.
SLOWER = 40
HIDDEN = Path("/etc/modprobe.d/hidden.conf")


def wait_until(check: Callable[[], Any], what: str = "", limit: float = 10) -> Any:
    """As waiting.wait_until, with patience."""
    deadline = time.monotonic() + limit * SLOWER
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit * SLOWER:.0f} s: {what}")
        time.sleep(0.2)
    return found


class _Patient(threading.Timer):
    def __init__(self, limit: float, act: Callable[[], object]) -> None:
        super().__init__(limit * SLOWER, act)


class _Threading:
    Timer = _Patient


waiting.wait_until = wait_until  # type: ignore[assignment]
nodes.threading = _Threading  # type: ignore[assignment]
nodes.run.__defaults__ = (20.0 * SLOWER,)
nodes.run.__kwdefaults__ = {"check": True, "timeout": 20.0 * SLOWER}

from tests.cluster.overlay import test_encryption as encryption  # noqa: E402 - with the patience from above
from tests.cluster.overlay import test_publish as publish  # noqa: E402

SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
s.bind(("10.90.0.11", 80)); s.listen(); print("ready", flush=True)
while True:
    c, a = s.accept(); c.sendall((a[0] + " said ").encode() + c.recv(100)); c.close()
"""
ASK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP); s.settimeout(300)
s.connect(("{address}", 9000)); s.sendall(b"hello"); print(s.recv(100).decode())
"""


@contextmanager
def made(count: int = 2) -> Iterator[nodes.Machines]:
    found = nodes.Machines(Path(mkdtemp()), count)
    try:
        yield found
    finally:
        found.close()


def on_the_wire() -> None:
    with made() as found:
        carried = found.nodes[0].call("implementation")["implementation"]
        must("chosen by itself", carried == "kernel", carried)
        encryption.test_the_wire_shows_nothing_of_it(found, True)
        must("a capture shows nothing of what tasks say", True)
        go = subprocess.run(["pgrep", "wireguard-go"], capture_output=True).stdout.split()
        must("no wireguard-go runs", not go)


def not_encrypted() -> None:
    with made() as found:
        encryption.test_what_is_not_encrypted_does_not_get_in(found)
    must("a plain VXLAN packet does not get in", True)


class _Without:
    """iperf3's 250 datagrams a second are more than a translated machine takes at any time."""

    @staticmethod
    def which(_: str) -> None:
        return None


def rotation() -> None:
    encryption.shutil = _Without  # type: ignore[assignment]
    with made() as found:
        encryption.test_keys_are_replaced_and_no_packet_is_lost(found)
    must("keys were replaced, no packet of a stream was lost", True)


def throughput(expected: str) -> float:
    """Mbit/s of one TCP stream; the best of three."""
    with made() as found:
        here, there = found.nodes
        a, b = encryption.two_tasks(found, encryption.crypted(1))
        must(f"carried by {expected}", here.call("implementation")["implementation"] == expected)
        wait_until(lambda: here.pings(a, "10.90.1.3"), "they reach each other", 30)
        server = subprocess.Popen(
            ["nsenter", f"--net={there.run_directory}/netns/{b.id}", "iperf3", "-s"], stdout=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: "5201" in there.inside(b, "ss -Htln"), "iperf3 listens", 30)
            netns = f"--net={here.run_directory}/netns/{a.id}"
            best = 0.0
            for _ in range(3):
                told = json.loads(nodes.run("nsenter", netns, "iperf3", "-J", "-t", "8", "-c", "10.90.1.3"))
                best = max(best, told["end"]["sum_received"]["bits_per_second"] / 1e6)
        finally:
            server.kill()
            server.wait()
    say(f"   {expected}: {best:.1f} Mbit/s")
    return best


def both() -> None:
    kernel = throughput("kernel")
    HIDDEN.write_text("install wireguard /bin/false\n")
    subprocess.run(["modprobe", "-r", "wireguard"], check=True)
    # wireguard-go's /dev/net/tun; systemd would have made it at boot.
    subprocess.run(["modprobe", "tun"], check=True)
    try:
        program = throughput("wireguard-go")
    finally:
        HIDDEN.unlink()
    say(f"   the kernel's carries {kernel / program:.1f} times as much")


def sctp() -> None:
    with made(3) as found:
        cluster = publish.Cluster(found)
        [one, *_] = publish.WEBS
        cluster.b.attach(one)
        netns = f"--net={cluster.b.run_directory}/netns/{one.id}"
        server = subprocess.Popen(
            ["nsenter", netns, sys.executable, "-u", "-c", SERVER], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            cluster.ready(one, cluster.b, True)
            for node in (cluster.a, cluster.b):
                ask = ["ip", "netns", "exec", found.wire, sys.executable, "-c", ASK.format(address=node.address)]
                said = nodes.run(*ask).strip()
                must(f"through node {node.node_id}", said == f"{publish.CLIENT} said hello", said)
        finally:
            server.kill()
            server.wait()


def main() -> int:
    tried("an encrypted network over the kernel's WireGuard", on_the_wire)
    tried("what is not encrypted", not_encrypted)
    tried("a published port by the kernel's SCTP", sctp)
    tried("keys are replaced under load", rotation)
    tried("throughput beside wireguard-go", both)
    return end()


if __name__ == "__main__":
    sys.exit(main())
