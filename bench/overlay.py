"""How quick the overlay is: `python -m bench.overlay [--json]`. Needs root; makes and removes its own namespaces.

Rows: attach and detach of a task (per task, 50 on one node), 1,000 endpoints of one service taken over by a node, also
by one with 20 tasks that have its virtual address, and one of them withdrawn there; as a container sees it, DNS answers
a second (eight questions at a time), how long one takes when 5,000 a second are asked, and how long a bare echo takes
then, which is what the machine is good for at that moment; round trips and throughput (with iperf3 when it is
installed, else with one plain TCP stream) between the same two nodes over the bare underlay, over VXLAN, through a
virtual address, over an encrypted network, over the tunnel that carries it ("tunnel"), and over wireguard-go as one
sets it up by hand with wg-quick's values ("wireguard"). What the rows ought to be is in GOALS, as ratios of one run:
figures of a busy machine mean little, their ratios a little more.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flota.overlay.tunnel_keys import tunnel_address
from flota.v1.dispatcher_pb2 import NetworkService
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import Driver
from tests.cluster.overlay.machines import Machines, Node, network, peer, removal, run, task, update

TASKS = 50
ASKERS = 20
ENDPOINTS = 1000
DNS_SECONDS = 2
DNS_RATE = 5000
ROUNDS = 7
# Row → (at least or at most, figure).
GOALS = {
    "vxlan_to_bare": ("≥", 0.65),
    "vip_to_vxlan": ("≥", 0.95),
    "vip_adds_us": ("≤", 30.0),
    "encrypted_to_wireguard": ("≥", 0.9),
    "endpoints_1000_ms": ("≤", 300.0),
    "endpoints_20_tasks_ms": ("≤", 300.0),
    "withdrawn_20_tasks_ms": ("≤", 200.0),
    "dns_answers_s": ("≥", 5000.0),
    "dns_p99_ms": ("≤", 5.0),
}
VIRTUAL = "10.90.1.200"
CROWD_VIRTUAL = "10.90.1.201/24"
# What wg-quick takes off the MTU of the way to the other end, whatever IP version that is.
PLAIN_MTU = 1500 - 80
PLAIN_PORT = 51900

_DNS = """
import socket, time
from dnslib import DNSRecord
query = bytes(DNSRecord.question("many").pack())
sockets = []
for _ in range(8):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.11", 53)); s.settimeout(2)
    sockets.append(s)
count = 0
end = time.perf_counter() + SECONDS
while time.perf_counter() < end:
    for s in sockets: s.send(query)
    for s in sockets: s.recv(4096)
    count += len(sockets)
print(count / SECONDS)
"""
_DATAGRAM_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.bind(("127.0.0.1", 5300)); print("ready", flush=True)
while True: s.sendto(*s.recvfrom(4096))
"""
# Questions at their times, whether those before were answered or not; latencies are from when each was due.
_DNS_PACED = """
import select, socket, time
from dnslib import DNSRecord
query = bytes(DNSRecord.question("many").pack())[2:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.connect(ADDRESS); s.setblocking(False)
total, due, times, sent = RATE * SECONDS, {}, [], 0
begin = time.perf_counter()
while len(times) < total and time.perf_counter() < begin + SECONDS + 5:
    while sent < total and begin + sent / RATE <= time.perf_counter():
        due[sent & 0xFFFF] = begin + sent / RATE
        s.send((sent & 0xFFFF).to_bytes(2, "big") + query); sent += 1
    try:
        while True:
            answer = s.recv(4096); times.append(time.perf_counter() - due[int.from_bytes(answer[:2], "big")])
    except BlockingIOError:
        select.select([s], [], [], max(0.0, begin + sent / RATE - time.perf_counter()) if sent < total else 0.1)
times.sort()
print(times[len(times) // 2] * 1e3, times[len(times) * 99 // 100] * 1e3, 100 * (total - len(times)) / total)
"""
_SINK = """
import socket
server = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True); print("ready", flush=True)
while True:
    c, _ = server.accept(); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kind = c.recv(1)
    if kind == b"e":
        while d := c.recv(64): c.sendall(d)
    else:
        b = bytearray(1 << 20)
        while c.recv_into(b): pass
        c.sendall(b"x")
    c.close()
"""
_STREAM = """
import socket, sys, time
d = bytes(1 << 20); total = 512
c = socket.create_connection((sys.argv[1], 9000), 5); c.sendall(b"t"); begin = time.perf_counter()
for _ in range(total): c.sendall(d)
c.shutdown(1); c.recv(1); print(total * 8 * len(d) / (time.perf_counter() - begin) / 1e9)
"""
_ECHO = """
import socket, statistics, sys, time
c = socket.create_connection((sys.argv[1], 9000), 5); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
c.sendall(b"e"); times = []
for _ in range(3000):
    begin = time.perf_counter(); c.sendall(b"x"); c.recv(1); times.append(time.perf_counter() - begin)
print(statistics.median(times) * 1e6)
"""


def enter(netns: str) -> list[str]:
    return ["nsenter", f"--net={netns}"]


@dataclass(frozen=True)
class Way:
    """From one namespace to an address in another."""

    name: str
    client: str
    server: str
    address: str


def compare(rows: dict[str, float], *ways: Way) -> dict[str, list[float]]:
    """Round trip (µs) and throughput (Gbit/s) of each way, medians of rounds in which all take turns.

    Gives back each one's throughput by round: on a busy machine only what was measured at the same time compares.
    """
    round_trips: dict[str, list[float]] = {way.name: [] for way in ways}
    throughputs: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(ROUNDS):
        for way in ways[:: -1 if number % 2 else 1]:
            with serving(way.server, sys.executable, "-u", "-c", _SINK, ready="ready"):
                command = [*enter(way.client), sys.executable, "-c"]
                round_trips[way.name].append(float(run(*command, _ECHO, way.address)))
                if shutil.which("iperf3") is None:
                    throughputs[way.name].append(float(run(*command, _STREAM, way.address)))
            if shutil.which("iperf3") is not None:
                throughputs[way.name].append(iperf(way))
    for name in round_trips:
        rows[f"{name}_round_trip_us"] = statistics.median(round_trips[name])
        rows[f"{name}_gbit_s"] = statistics.median(throughputs[name])
    return throughputs


def ratio(throughputs: dict[str, list[float]], one: str, other: str) -> float:
    """Of one way's throughput to another's, round by round; the median."""
    return statistics.median(x / y for x, y in zip(throughputs[one], throughputs[other], strict=True))


@contextmanager
def serving(netns: str, *command: str, ready: str) -> Iterator[None]:
    """A server in a namespace, from when it has said that it is ready."""
    daemon = subprocess.Popen([*enter(netns), *command], stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None
        while ready not in daemon.stdout.readline():
            pass
        yield
    finally:
        daemon.kill()
        daemon.wait()


def iperf(way: Way) -> float:
    """Gbit/s of one TCP stream within two seconds."""
    with serving(way.server, "iperf3", "-s", "-1", "--forceflush", ready="listening"):
        done = json.loads(run(*enter(way.client), "iperf3", "-c", way.address, "-t", "2", "-J"))
    return float(done["end"]["sum_received"]["bits_per_second"]) / 1e9


def measure(a: Node, b: Node) -> dict[str, float]:
    """Everything, on two nodes that have nothing yet."""
    rows: dict[str, float] = {}
    place = network(1, "bench")
    here, there = task("here", "here", 1, (place, "10.90.1.2/24")), task("there", "there", 1, (place, "10.90.1.3/24"))
    peers = [update(place), update(peer(here, a, place)), update(peer(there, b, place))]
    for node in (a, b):
        node.apply(*peers, complete=True)
    a.attach(here)
    b.attach(there)

    many = [task(f"many{number}", "many", number, (place, f"10.90.1.{10 + number}/24")) for number in range(TASKS)]
    attach, detach = [], []
    for _ in range(ROUNDS):
        attach.append(float(a.attach(*many)["seconds"]))
        detach.append(float(a.call("detach", tasks=[one.id for one in many])["seconds"]))
    rows["attach_ms"] = statistics.median(attach) / TASKS * 1e3
    rows["detach_ms"] = statistics.median(detach) / TASKS * 1e3

    crowd = [
        task(f"crowd{number}", "crowd", number, (place, f"10.91.{number // 250}.{1 + number % 250}/16"))
        for number in range(ENDPOINTS)
    ]
    rows["endpoints_1000_ms"] = a.apply(*(update(peer(one, b, place)) for one in crowd)) * 1e3
    virtual = NetworkService(
        network_id=place.id, service_id=crowd[0].service_id, service_name="crowd", virtual_ip=CROWD_VIRTUAL
    )
    a.apply(*(removal(peer(one, b, place)) for one in crowd))
    a.attach(*many[:ASKERS])
    rows["endpoints_20_tasks_ms"] = a.apply(update(virtual), *(update(peer(one, b, place)) for one in crowd)) * 1e3
    rows["withdrawn_20_tasks_ms"] = statistics.median(
        a.apply(removal(peer(one, b, place))) * 1e3 for one in crowd[:ROUNDS]
    )
    a.call("detach", tasks=[one.id for one in many[:ASKERS]])
    a.apply(removal(virtual))
    a.apply(*(update(peer(one, b, place)) for one in many[:5]))
    rows |= dns(a, here)

    service = NetworkService(
        network_id=place.id, service_id=there.service_id, service_name="there", virtual_ip=f"{VIRTUAL}/24"
    )
    a.apply(update(service))
    inner = [f"{node.run_directory}/netns/{one.id}" for node, one in ((a, here), (b, there))]
    throughputs = compare(
        rows,
        Way("bare", f"/run/netns/{a.name}", f"/run/netns/{b.name}", b.address),
        Way("vxlan", inner[0], inner[1], "10.90.1.3"),
        Way("vip", inner[0], inner[1], VIRTUAL),
    )
    rows["vxlan_to_bare"] = ratio(throughputs, "vxlan", "bare")
    rows["vip_to_vxlan"] = ratio(throughputs, "vip", "vxlan")
    rows["vip_adds_us"] = rows["vip_round_trip_us"] - rows["vxlan_round_trip_us"]
    encrypted(a, b, rows)
    return rows


def dns(node: Node, asker: Task) -> dict[str, float]:
    """Medians of rounds: the most answers a second; latencies at DNS_RATE (ms), and what is lost then (per cent)."""
    most, answers, echoes = [], [], []
    echo = node.background(asker, _DATAGRAM_ECHO)
    try:
        for _ in range(ROUNDS):
            most.append(float(node.python(asker, _DNS.replace("SECONDS", str(DNS_SECONDS)))))
            answers.append(paced(node, asker, ("127.0.0.11", 53)))
            echoes.append(paced(node, asker, ("127.0.0.1", 5300)))
    finally:
        echo.kill()
        echo.wait()
    middle, slow, lost = map(statistics.median, zip(*answers, strict=True))
    return {
        "dns_answers_s": statistics.median(most),
        "dns_p50_ms": middle,
        "dns_p99_ms": slow,
        "dns_lost_%": lost,
        "echo_p99_ms": statistics.median(one[1] for one in echoes),
    }


def paced(node: Node, asker: Task, server: tuple[str, int]) -> list[float]:
    """p50 and p99 (ms) of questions at DNS_RATE, and losses in per cent."""
    program = _DNS_PACED.replace("SECONDS", str(DNS_SECONDS)).replace("RATE", str(DNS_RATE))
    return [float(word) for word in node.python(asker, program.replace("ADDRESS", repr(server))).split()]


def encrypted(a: Node, b: Node, rows: dict[str, float]) -> None:
    """The same over an encrypted network, over its WireGuard tunnel without VXLAN, and over a plain wireguard-go."""
    place = network(2, "secret", driver=Driver(name="overlay", options={"encrypted": ""}))
    tasks = [task(f"secret{number}", "secret", number, (place, f"10.90.2.{1 + number}/24")) for number in (1, 2)]
    for node in (a, b):
        node.apply(update(place), *(update(peer(one, at, place)) for one, at in zip(tasks, (a, b), strict=True)))
    for node, one in zip((a, b), tasks, strict=True):
        node.attach(one)
    while not a.pings(tasks[0], "10.90.2.3"):
        pass
    tunnels = [f"{node.run_directory}/tunnels/netns" for node in (a, b)]
    inner = [f"{node.run_directory}/netns/{one.id}" for node, one in zip((a, b), tasks, strict=True)]
    with plain_wireguard(a, b) as address:
        throughputs = compare(
            rows,
            Way("wireguard", f"/run/netns/{a.name}", f"/run/netns/{b.name}", address),
            Way("tunnel", tunnels[0], tunnels[1], tunnel_address(b.address, b.keys()[-1].generation)),
            Way("encrypted", inner[0], inner[1], "10.90.2.3"),
        )
    rows["encrypted_to_wireguard"] = ratio(throughputs, "encrypted", "wireguard")
    rows["encrypted_to_tunnel"] = ratio(throughputs, "encrypted", "tunnel")


@contextmanager
def plain_wireguard(a: Node, b: Node) -> Iterator[str]:
    """wireguard-go between two nodes as wg-quick would have it, with nothing of ours; gives the second's address."""
    private = [run("wg", "genkey").strip() for _ in range(2)]
    public = [subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True).stdout for key in private]
    with ExitStack() as stack:
        for number, node in enumerate((a, b)):
            device, far = f"fb{number}-{os.getpid()}"[:15], 1 - number
            command = [*enter(f"/run/netns/{node.name}"), "wireguard-go", "--foreground", device]
            quiet = {**os.environ, "LOG_LEVEL": "error"}
            nowhere = subprocess.DEVNULL
            daemon = subprocess.Popen(command, env=quiet, stdout=nowhere, stderr=nowhere, start_new_session=True)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            key = node.run_directory / "bench.key"
            stack.callback(key.unlink)
            key.write_text(private[number])
            key.chmod(0o600)
            while not Path(f"/var/run/wireguard/{device}.sock").exists():
                assert daemon.poll() is None
                time.sleep(0.01)
            endpoint = f"{(a, b)[far].address}:{PLAIN_PORT}"
            node.sh(
                f"wg set {device} listen-port {PLAIN_PORT} private-key {key}"
                f" peer {public[far].strip()} endpoint {endpoint} allowed-ips 10.99.0.{far + 1}/32"
                f" && ip address add 10.99.0.{number + 1}/24 dev {device}"
                f" && ip link set mtu {PLAIN_MTU} up dev {device}"
            )
        # The first packet waits for the handshake.
        a.sh("busybox ping -c 1 -W 10 10.99.0.2")
        yield "10.99.0.2"


def verdict(name: str, value: float) -> str:
    """How a row stands to its goal."""
    if name not in GOALS:
        return ""
    sign, goal = GOALS[name]
    return f"{sign} {goal:g}   {'met' if (value >= goal) == (sign == '≥') or value == goal else 'missed'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    machines = Machines(Path(tempfile.mkdtemp(prefix="flota-bench-")), 2)
    try:
        rows = measure(*machines.nodes)
    finally:
        machines.close()
    if arguments.json:
        print(json.dumps(rows))
        return
    for name, value in rows.items():
        print(f"{name:24} {value:12.2f}   {verdict(name, value)}".rstrip())
    met = sum(verdict(name, rows[name]).endswith(" met") for name in GOALS)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{met} of {len(GOALS)} goals met; {os.cpu_count()} processors, load {load}")


if __name__ == "__main__":
    main()
