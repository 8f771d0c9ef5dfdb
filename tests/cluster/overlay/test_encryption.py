"""Encrypted networks: what is on the wire, what gets in from there, keys that are replaced under traffic."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flota.overlay.tunnel_keys import tunnel_address
from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import Driver
from tests.cluster.overlay.machines import Machines, Node, network, peer, removal, run, task, update
from tests.cluster.waiting import wait_until

SECRET = "so-nobody-reads-this-on-the-wire"


def crypted(number: int) -> Network:
    return network(number, f"secret{number}", driver=Driver(name="overlay", options={"encrypted": ""}))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path / "machines", 2)
    yield machines
    machines.close()


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()


def two_tasks(machines: Machines, place: Network) -> tuple[Task, Task]:
    """One on each node, and everybody knows of both."""
    number = place.vni - 5000
    tasks = (
        task(f"a{number}", "a", 1, (place, f"10.90.{number}.2/24")),
        task(f"b{number}", "b", 1, (place, f"10.90.{number}.3/24")),
    )
    told = [update(place), *(update(peer(one, node, place)) for one, node in zip(tasks, machines.nodes, strict=True))]
    machines.apply(*told, complete=True)
    for one, node in zip(tasks, machines.nodes, strict=True):
        node.attach(one)
    return tasks


SNIFF = """
import signal, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(("u1", 0))
signal.signal(signal.SIGTERM, lambda *_: s.setblocking(False))
sys.stdout.buffer.write(b"ready\\n"); sys.stdout.flush()
try:
    while True: sys.stdout.buffer.write(s.recv(65536))
except BlockingIOError: sys.stdout.flush()
"""


def capture(machines: Machines) -> subprocess.Popen[bytes]:
    """Everything that passes the first node's cable, until it is told to end."""
    command = ["nsenter", f"--net=/run/netns/{machines.wire}", sys.executable, "-c", SNIFF]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


SEND = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(30)
while True:
    s.sendto(b"{SECRET}", ("ADDRESS", 9000))
    try:
        print(s.recv(100)); break
    except TimeoutError: pass
"""
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 9000)); print("ready", flush=True)
while True:
    d, a = s.recvfrom(2000); s.sendto(d, a)
"""


@pytest.mark.parametrize("encrypted", [True, False])
def test_the_wire_shows_nothing_of_it(machines: Machines, encrypted: bool) -> None:
    here, there = machines.nodes
    a, b = two_tasks(machines, crypted(1) if encrypted else network(1, "plain"))
    echo = there.background(b, ECHO)
    seen = capture(machines)
    try:
        assert SECRET in here.python(a, SEND.replace("ADDRESS", "10.90.1.3"))
    finally:
        echo.kill()
        echo.wait()
        seen.terminate()
        wire, _ = seen.communicate()
    # The plain network shows that the capture would have seen it.
    assert (SECRET.encode() in wire) is not encrypted
    assert len(wire) > 100


def test_what_is_not_encrypted_does_not_get_in(machines: Machines) -> None:
    """A well-formed VXLAN packet from a node's own address is dropped; on a plain network it is not."""
    here, there = machines.nodes
    for place, gets_in in ((crypted(1), False), (network(2, "plain"), True)):
        a, b = two_tasks(machines, place)
        address = f"10.90.{place.vni - 5000}.3"
        listener = there.background(
            b,
            "import socket\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9001)); print('ready', flush=True)\n"
            "while True: print(s.recv(100), flush=True)\n",
        )
        inject = (
            "import socket, struct\n"
            f"src, dst = socket.inet_aton('{address[:-1]}2'), socket.inet_aton('{address}')\n"
            "def total(data):\n"
            "    s = sum(struct.unpack(f'!{len(data) // 2}H', data)); s = (s >> 16) + (s & 0xffff)\n"
            "    return ~(s + (s >> 16)) & 0xffff\n"
            "udp = struct.pack('!HHHH', 9001, 9001, 8 + 8, 0) + b'injected'\n"
            "ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, src, dst)\n"
            "ip = ip[:10] + struct.pack('!H', total(ip)) + ip[12:]\n"
            "frame = b'\\x02\\x42' + dst + b'\\x02\\x42' + src + b'\\x08\\x00' + ip + udp\n"
            f"vxlan = struct.pack('!II', 0x08000000, {place.vni} << 8) + frame\n"
            f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"for _ in range(5): s.sendto(vxlan, ('{there.address}', 4789))\n"
        )
        file = machines.directory / "inject.py"
        file.write_text(inject)
        here.sh(f"{sys.executable} {file}")
        # Something that does get in comes after it, so there is nothing to wait for.
        sender = here.background(
            a,
            "import socket, time\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); print('ready')\n"
            f"while True: s.sendto(b'the end', ('{address}', 9001)); time.sleep(0.05)\n",
        )
        heard = []
        assert listener.stdout is not None
        for line in listener.stdout:
            heard.append(line.strip())
            if "the end" in line:
                break
        for process in (listener, sender):
            process.kill()
            process.wait()
        assert any("injected" in line for line in heard) is gets_in


# A packet every few milliseconds, and no more on their way than buffers hold while somebody waits for a processor.
STREAM = """
import json, socket, sys, threading, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("10.90.1.3", 9000))
s.settimeout(5)
sent, got, end, room = 0, set(), threading.Event(), threading.Semaphore(50)
def listen():
    while not end.is_set() or len(got) < sent:
        try: number = int(s.recv(100))
        except TimeoutError: return
        if number >= 0 and number not in got: got.add(number); room.release()
while True:
    s.send(b"-1")
    try: s.recv(100); break
    except TimeoutError: pass
s.settimeout(30)
listener = threading.Thread(target=listen); listener.start()
threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
print("ready", flush=True)
while not end.is_set():
    if not room.acquire(timeout=30): break
    s.send(str(sent).encode()); sent += 1
    time.sleep(0.005)
end.set(); listener.join()
print(json.dumps([sent, len(got)]))
"""


def keeps_what_comes_in(node: Node) -> bool:
    """Whether wireguard-go has more buffer than the machine's default, for when it waits for a processor."""
    if node.call("implementation")["implementation"] != "wireguard-go":
        return True
    sizes = re.findall(r"skmem:\(r\d+,rb(\d+)", node.sh("ss -uanmH 'sport = :51820 or sport = :51821'"))
    return bool(sizes) and all(int(size) > 4 << 20 for size in sizes)


def has_gone_over(node: Node, place: Network, other: Node, generation: int) -> bool:
    """Whether a node sends to the other's key of that generation, and each of its own keys has its sessions."""
    network, tunnels = node.run_directory / "netns" / f"net-{place.id}", node.run_directory / "tunnels" / "netns"
    entries = run("nsenter", f"--net={network}", "bridge", "fdb", "show", "dev", "vxlan0")
    handshakes = run("nsenter", f"--net={tunnels}", "wg", "show", "all", "latest-handshakes")
    all_greeted = all(not line.endswith("\t0") for line in handshakes.splitlines())
    return all_greeted and f"dst {tunnel_address(other.address, generation)} " in entries


class Iperf:
    """iperf3's datagrams from one task to another, 100 a second for as long as it is not ended.

    They do not wait for the other side, so it goes before others: its buffer holds two seconds of them.
    """

    def __init__(self, here: Node, a: Task, there: Node, b: Task, address: str) -> None:
        self._server = self._start(there, b, "-s", "-1", "-J")
        wait_until(lambda: "5201" in there.inside(b, "ss -Htln"), "iperf3 listens")
        self._client = self._start(here, a, "-c", address, "-u", "-b", "80k", "-l", "100", "-t", "3600")

    @staticmethod
    def _start(node: Node, one: Task, *flags: str) -> subprocess.Popen[str]:
        command = ["nsenter", f"--net={node.run_directory}/netns/{one.id}", "nice", "-n", "-15", "iperf3", *flags]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, int]:
        """(packets that were sent, as far as the server can know; those of them it did not get)."""
        self._client.terminate()
        told = json.loads(self._server.communicate(timeout=60)[0])["end"]["sum"]
        return told["packets"], told["lost_packets"]

    def kill(self) -> None:
        for process in (self._client, self._server):
            process.kill()
            process.communicate()


def test_keys_are_replaced_and_no_packet_is_lost(machines: Machines) -> None:
    here, there = machines.nodes
    place = crypted(1)
    a, b = two_tasks(machines, place)
    old = here.keys(), there.keys()
    echo = there.background(b, ECHO)
    stream = subprocess.Popen(
        ["nsenter", f"--net={here.run_directory}/netns/{a.id}", sys.executable, "-u", "-c", STREAM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    iperf = None
    try:
        assert stream.stdout is not None
        assert stream.stdout.readline() == "ready\n"
        iperf = Iperf(here, a, there, b, "10.90.1.3") if shutil.which("iperf3") else None

        def told() -> None:
            machines.apply(update(peer(a, here, place)), update(peer(b, there, place)))

        # Announced, in use, alone: each step once everybody has heard of the one before, as a minute is enough for.
        for step in ((2, 1), (2, 2), (1, 2)):
            for node in machines.nodes:
                node.call("rotate")
                wait_until(lambda node=node, step=step: (len(node.keys()), node.sending()) == step, f"step {step}")
            told()
            for node, other in ((here, there), (there, here)):
                wait_until(lambda node=node, other=other: has_gone_over(node, place, other, 2), "all have gone over")
            # Packets under each of them, and time for those on their way: a minute in earnest.
            time.sleep(1)
        if iperf is not None:
            packets, lost = iperf.end()
            assert packets > 100
            assert lost == 0
        sent, got = json.loads(stream.communicate("", timeout=90)[0])
    finally:
        if iperf is not None:
            iperf.kill()
        for process in (echo, stream):
            process.kill()
            process.wait()
    # It has its sockets a moment after its device; they are looked after every five seconds.
    wait_until(lambda: keeps_what_comes_in(here), "large buffers")
    assert (here.keys(), there.keys()) != old
    new, before = ({key.public_key for key in keys} for keys in (here.keys(), old[0]))
    assert not new & before
    assert sent > 100
    assert got == sent


def test_the_mesh_is_there_as_long_as_an_encrypted_network(machines: Machines) -> None:
    here, there = machines.nodes
    place = crypted(1)
    a, b = two_tasks(machines, place)
    wait_until(lambda: here.pings(a, "10.90.1.3"), "they reach each other", 90)
    # A worker that starts again finds it, and can go on with it.
    here.crash()
    here.start()
    here.call("adopt", tasks=[a.id])
    assert here.pings(a, "10.90.1.3")
    here.apply(update(place), update(peer(a, here, place)), update(peer(b, there, place)), complete=True)
    assert here.pings(a, "10.90.1.3")

    # wireguard-go that ended is started again.
    for file in Path("/var/run/wireguard").glob("fw*.sock"):
        if file.name.removesuffix(".sock") in _devices(here.run_directory):
            file.unlink()
    wait_until(lambda: here.pings(a, "10.90.1.3"), "they reach each other again", 90)

    for node, one in ((here, a), (there, b)):
        node.detach(one)
        node.apply(removal(place))
        assert not (node.run_directory / "tunnels" / "netns").exists()


LARGEST = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("10.90.1.3", 9000)); s.settimeout(30)
s.setsockopt(socket.IPPROTO_IP, 10, 2); size = s.getsockopt(socket.IPPROTO_IP, 14) - 28
s.send(bytes(size)); print(len(s.recv(2000)) + 28)
"""


@pytest.mark.parametrize(
    ("version", "underlay", "encrypted", "mtu"),
    [
        (4, 1500, False, 1450),
        (4, 1500, True, 1366),
        (6, 1500, False, 1430),
        (6, 1500, True, 1350),
        (4, 1400, True, 1258),
    ],
)
def test_as_much_as_an_interface_takes_arrives_in_one_piece(
    tmp_path: Path, version: int, underlay: int, encrypted: bool, mtu: int
) -> None:
    """Endpoints of either IP version: their headers differ in size."""
    machines = Machines(tmp_path / "machines", 2, mtu=underlay, version=version)
    try:
        here, there = machines.nodes
        a, b = two_tasks(machines, crypted(1) if encrypted else network(1, "plain"))
        wait_until(lambda: here.pings(a, "10.90.1.3"), "they reach each other", 90)
        echo = there.background(b, ECHO)
        try:
            assert int(here.python(a, LARGEST)) == mtu
        finally:
            echo.kill()
            echo.wait()
        # Neither what is within the tunnel nor the tunnel's own packets had to be put together again.
        tunnels = f"{there.run_directory}/tunnels/netns"
        for namespace in (f"/run/netns/{there.name}", *([tunnels] if encrypted else [])):
            counted = run("nsenter", f"--net={namespace}", "nstat", "-asz", "IpReasmReqds", "Ip6ReasmReqds")
            assert re.findall(r"ReasmReqds +(\d+)", counted) == ["0", "0"]
    finally:
        machines.close()


def test_packets_are_taken_in_by_all_processors(machines: Machines) -> None:
    """wireguard-go's thread does not take each packet all the way to its task."""
    here, _ = machines.nodes
    two_tasks(machines, crypted(1))
    if here.call("implementation")["implementation"] != "wireguard-go" or os.cpu_count() == 1:
        pytest.skip("the kernel's own WireGuard, or a single processor")
    show = "mount -t sysfs none /sys && cat /sys/class/net/fw*/queues/rx-0/rps_cpus"
    shown = run("nsenter", f"--net={here.run_directory}/tunnels/netns", "unshare", "-m", "sh", "-c", show)
    assert int(shown.replace(",", ""), 16) == (1 << (os.cpu_count() or 1)) - 1


def _devices(run_directory: Path) -> str:
    return run("nsenter", f"--net={run_directory}/tunnels/netns", "ip", "-o", "link")
