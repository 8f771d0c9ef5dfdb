"""Published ports whose connections begin with a PROXY header. Needs root."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from flota.v1.types_pb2 import PortConfig
from tests.cluster.overlay.machines import Machines, network, peer, run, task, update

INGRESS = network(0, "ingress", ingress=True, ipv6_enabled=True)
WEB = task("web1", "web", 1, (INGRESS, "10.90.0.11/24", "fd00:90:0::11/64"))
PORT = PortConfig(target_port=80, published_port=8080, proxy_protocol=PortConfig.PROXY_PROTOCOL_V2)
# A program that wants the line of version 1, on its node only.
LINE = PortConfig(
    target_port=81, published_port=8081, proxy_protocol=PortConfig.PROXY_PROTOCOL_V1,
    publish_mode=PortConfig.PUBLISH_MODE_HOST,
)  # fmt: skip
WEB.endpoint.ports.extend((PORT, LINE))
SERVICE = NetworkService(network_id=INGRESS.id, service_id="svcweb", service_name="web", ports=[PORT])

# Says what the header told of the client; then sends everything back, and closes when the other side has.
SERVER = """
import ipaddress, socket, struct, threading
def exactly(c, count):
    got = b""
    while len(got) < count: got += c.recv(count - len(got))
    return got
def serve(c):
    signature, command, family, length = struct.unpack("!12sBBH", exactly(c, 16))
    assert (signature, command) == (bytes.fromhex("0d0a0d0a000d0a515549540a"), 0x21)
    addresses = exactly(c, length); size = 4 if family == 0x11 else 16
    source, target = (ipaddress.ip_address(addresses[n * size:][:size]) for n in (0, 1))
    ports = struct.unpack("!HH", addresses[2 * size:])
    c.sendall(f"{source} {ports[0]} {target} {ports[1]}\\n".encode())
    while d := c.recv(65536): c.sendall(d)
    c.close()
def line():
    s = socket.create_server(("::", 81), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
    while True: c, _ = s.accept(); c.sendall(c.makefile("rb").readline()); c.close()
threading.Thread(target=line, daemon=True).start()
s = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
print("ready")
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""
# Prints whether it was told its own address and port, what else it was told, and how much of what it sent came back.
ASK = """
import socket, threading
c = socket.create_connection(("{address}", 8080), 20); f = c.makefile("rb")
try:
    source, port, target, target_port = f.readline().decode().split()
    own = c.getsockname()
    def send(): c.sendall(bytes(4 << 20)); c.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    print((source, int(port)) == own[:2], target, target_port, len(f.read()))
except (OSError, ValueError): print("no answer")
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path, 2)
    try:
        nodes = [NetworkPeer(network_id=INGRESS.id, task_id=node.node_id, node_id=node.node_id, vtep=node.address)
                 for node in machines.nodes]  # fmt: skip
        machines.apply(*map(update, (INGRESS, SERVICE, *nodes)), complete=True)
        machines.nodes[1].attach(WEB)
        machines.apply(update(peer(WEB, machines.nodes[1], INGRESS)))
        yield machines
    finally:
        machines.close()


@pytest.fixture
def server(machines: Machines) -> Iterator[subprocess.Popen[str]]:
    server = machines.nodes[1].background(WEB, SERVER)
    yield server
    server.kill()
    server.wait()


def ask(machines: Machines, address: str) -> str:
    return run("ip", "netns", "exec", machines.wire, sys.executable, "-c", ASK.format(address=address), timeout=60)


def test_the_program_is_told_of_the_client_and_all_bytes_pass(
    machines: Machines, server: subprocess.Popen[str]
) -> None:
    for node in machines.nodes:
        assert ask(machines, node.address) == f"True 10.90.0.11 80 {4 << 20}\n", node.name
        assert ask(machines, node.ipv6_address) == f"True fd00:90::11 80 {4 << 20}\n", node.name


def test_the_line_of_version_1_in_host_mode(machines: Machines, server: subprocess.Popen[str]) -> None:
    a, b = machines.nodes
    ask_line = (
        "import socket\n"
        "try: c = socket.create_connection(({address!r}, 8081), 20); print(c.getsockname()[1], c.recv(99).decode())\n"
        "except OSError as error: print(type(error).__name__)\n"
    )

    def asked(address: str) -> list[str]:
        script = ask_line.format(address=address)
        return run("ip", "netns", "exec", machines.wire, sys.executable, "-c", script).split()

    port, *line = asked(b.address)
    assert line == ["PROXY", "TCP4", "192.0.2.254", "10.90.0.11", port, "81"]
    port, *line = asked(b.ipv6_address)
    assert line == ["PROXY", "TCP6", "2001:db8::fe", "fd00:90::11", port, "81"]
    assert asked(a.address) == ["ConnectionRefusedError"]


def test_the_next_worker_listens_again(machines: Machines, server: subprocess.Popen[str]) -> None:
    a, b = machines.nodes
    b.crash()
    b.start()
    assert b.call("adopt", tasks=[WEB.id]) == {}
    assert ask(machines, a.address) == f"True 10.90.0.11 80 {4 << 20}\n"


def test_without_a_program_the_connection_ends_at_once(machines: Machines) -> None:
    assert ask(machines, machines.nodes[0].address) == "no answer\n"


def test_a_task_that_goes_leaves_the_listener_to_the_next(machines: Machines, server: subprocess.Popen[str]) -> None:
    b = machines.nodes[1]
    assert "61520" in b.inside(WEB, "ss -Htln")
    b.detach(WEB)
    b.attach(WEB)
    assert "61520" in b.inside(WEB, "ss -Htln")
    b.stop()
