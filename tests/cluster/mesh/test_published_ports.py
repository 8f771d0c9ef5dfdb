"""Published ports of a whole swarm: every node answers, tasks see the client, an update loses no request."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import docker.errors
import docker.types
import pytest

from flota.node.lab import Lab, LabError
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

# A lab, and then an update with a limit of its own.
pytestmark = pytest.mark.timeout(300)

# Says who it is, which version, and whom it sees.
SERVER = (
    "mkdir -p /www/cgi-bin; cd /www/cgi-bin;"
    r' printf "#!/bin/sh\necho\necho \$HOSTNAME \$REMOTE_ADDR\n" > who; chmod +x who;'
    " export HOSTNAME; trap 'exit 0' TERM; httpd -f -p 80 -h /www & wait"
)
PROGRAM = ("busybox:latest", "sh", "-c", SERVER)
HEALTH = (
    *("--health-cmd", "wget -q -O /dev/null http://127.0.0.1/cgi-bin/who"),
    *("--health-interval", "5s", "--health-start-period", "120s", "--health-start-interval", "200ms"),
)


def ask(address: str, port: int = 8080) -> tuple[str, str]:
    """(who answered, whom it saw)."""
    host = f"[{address}]" if ":" in address else address
    with urllib.request.urlopen(f"http://{host}:{port}/cgi-bin/who", timeout=5) as answer:
        who, seen = answer.read().decode().split()
    return who, seen.strip("[]").removeprefix("::ffff:")


def answers(address: str, port: int = 8080) -> bool:
    try:
        return bool(ask(address, port))
    except OSError:
        return False


def own_address(node: str) -> str:
    """How this machine, a client outside of the swarm, is known to the node with that address."""
    route = subprocess.run(["ip", "-o", "route", "get", node], capture_output=True, text=True, check=True)
    return route.stdout.split(" src ")[1].split()[0]


@pytest.fixture
def swarm(make_lab: Callable[..., Lab]) -> Iterator[Swarm]:
    """One manager and two workers."""
    with Swarm(make_lab(1, 2, heartbeat=2.0)) as swarm:
        yield swarm


# This machine's Python and the server beside this file: told to stop it listens no longer.
HERE = Path(__file__).parent
STRICT = ("busybox:latest", "/usr/bin/python3", "/srv/server.py", "80")
MOUNTS = tuple(
    part
    for source, target in (("/usr", "/usr"), ("/lib", "/lib"), ("/lib64", "/lib64"), (str(HERE), "/srv"))
    for part in ("--mount", f"type=bind,source={source},target={target},readonly")
)


def create(swarm: Swarm, *flags: str, program: tuple[str, ...] = PROGRAM) -> None:
    swarm.lab.nodes["m1"].flota("service", "create", "--detach", "--name", "web", *flags, *HEALTH, *program)


def nft(swarm: Swarm, node: str) -> str:
    return swarm.lab.nodes[node].exec(["nft", "list", "ruleset"]).stdout


def test_every_node_answers_and_the_task_sees_the_client(swarm: Swarm) -> None:
    nodes = swarm.lab.nodes
    create(
        swarm, "--replicas", "1", "--hostname", "{{.Task.Slot}}", "--constraint", "node.role==worker",
        "-p", "8080:80", "-p", "80", "-p", "mode=host,target=80",
    )  # fmt: skip
    wait_until(lambda: swarm.running("web").total() == 1, "web runs", 90)
    client, client_ipv6 = own_address(nodes["m1"].address), own_address(nodes["m1"].ipv6_address)
    for name, node in nodes.items():
        wait_until(lambda node=node: answers(node.address), f"{name} answers", 90)
        assert ask(node.address) == ("1", client), name
        assert ask(node.ipv6_address) == ("1", client_ipv6), f"{name} by IPv6"
    # A port that nobody chose answers everywhere, too.
    [web] = json.loads(nodes["m1"].flota("service", "inspect", "web"))
    ports = [port for port in web["Endpoint"]["Ports"] if port["PublishMode"] == "ingress"]
    [chosen] = [port["PublishedPort"] for port in ports if port["PublishedPort"] != 8080]
    assert 30000 <= chosen <= 32767
    for name, node in nodes.items():
        assert ask(node.address, chosen) == ("1", client), name
    # The port in host mode was chosen on the task's node, and is in its status; only that node answers there.
    [task] = swarm.tasks("web")
    [port] = task.status.ports.ports
    [its_node] = swarm.running("web")
    for name, node in nodes.items():
        assert answers(node.address, port.published_port) == (name == its_node)
        assert answers(node.ipv6_address, port.published_port) == (name == its_node)
    assert ask(nodes[its_node].address, port.published_port) == ("1", client)

    # It moves, and the mesh follows.
    nodes["m1"].flota("node", "update", "--availability", "drain", its_node)
    wait_until(lambda: its_node not in swarm.running("web") and swarm.running("web").total() == 1, "web has moved", 90)
    for name, node in nodes.items():
        wait_until(lambda node=node: answers(node.address), f"{name} answers, a drained node too", 90)

    # Its node dies without a word, and so do the ways through it.
    nodes["m1"].flota("node", "update", "--availability", "active", its_node)
    [dead] = swarm.running("web")
    swarm.lab.kill(dead)
    wait_until(lambda: swarm.running("web") == {its_node: 1}, f"web runs on {its_node} again", 60)
    for name in ("m1", its_node):
        wait_until(lambda name=name: answers(nodes[name].address), f"{name} answers", 90)
        for _ in range(4):
            assert ask(nodes[name].address) == ("1", client), "every time"
    swarm.lab.start(dead)
    wait_until(lambda: swarm.ready() == set(nodes) and answers(nodes[dead].address), f"{dead} is back, and answers", 60)

    nodes["m1"].flota("service", "rm", "web")
    for name in nodes:
        wait_until(lambda name=name: "elements" not in nft(swarm, name), f"no port is left on {name}", 90)


def test_the_ingress_network_is_replaced(swarm: Swarm) -> None:
    """By one with other addresses, through Docker's API and back with the command line: ports answer as before."""
    nodes = swarm.lab.nodes
    m1 = nodes["m1"]
    client = docker.DockerClient(base_url=m1.environment()["DOCKER_HOST"], timeout=60)
    publish = ("--replicas", "1", "--hostname", "{{.Task.Slot}}", "-p", "8080:80")
    create(swarm, *publish)
    for name, node in nodes.items():
        wait_until(lambda node=node: answers(node.address), f"{name} answers", 90)
    with pytest.raises(docker.errors.APIError, match="network ingress is in use by service web"):
        client.networks.get("ingress").remove()
    m1.flota("service", "rm", "web")
    # Tasks that are still stopping are waited for.
    client.networks.get("ingress").remove()
    with pytest.raises(LabError, match="port 8080 is published on every node, and the swarm has no ingress network"):
        create(swarm, *publish)

    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.77.0.0/24")])
    made = client.networks.create("mesh", driver="overlay", ingress=True, ipam=pool)
    create(swarm, *publish)
    for name, node in nodes.items():
        wait_until(lambda node=node: answers(node.address), f"{name} answers again", 90)
        assert ask(node.address) == ("1", own_address(node.address)), "and keeps the client's address"
    [task] = swarm.tasks("web")
    assert [on.addresses[0].rpartition(".")[0] for on in task.networks if on.network_id == made.id] == ["10.77.0"]
    client.close()
    m1.flota("service", "rm", "web")
    remove = ["flota", "network", "rm", "--force", "mesh"]
    wait_until(lambda: not m1.exec(remove, check=False).returncode, "its tasks have stopped", 90)
    m1.flota("network", "create", "--ingress", "--ipv6", "ingress")
    create(swarm, *publish)
    for name, node in nodes.items():
        wait_until(lambda node=node: answers(node.ipv6_address), f"{name} answers, by IPv6 too", 90)


def test_an_update_under_load_loses_no_request(swarm: Swarm) -> None:
    """500 requests a second: through every node's published port, and through the virtual addresses of a network.

    Half of them by IPv6.
    """
    m1 = swarm.lab.nodes["m1"]
    # No node is to be taken for dead because the machine has much to do.
    m1.flota("swarm", "update", "--dispatcher-heartbeat", "30s")
    m1.flota("network", "create", "--ipv6", "back")
    m1.flota("service", "create", "--detach", "--name", "asker", "--network", "back", "busybox:latest", "sleep", "9999")
    create(swarm, "--replicas", "4", "--hostname", "v1", "--network", "back", "-p", "8080:80",
           "--update-monitor", "100ms", *MOUNTS, program=STRICT)  # fmt: skip
    wait_until(lambda: swarm.running("web").total() == 4 and swarm.running("asker").total() == 1, "all run", 90)
    for node in swarm.lab.nodes.values():
        wait_until(lambda node=node: answers(node.address), "all nodes answer", 90)

    [asker], [place] = swarm.tasks("asker"), swarm.running("asker")
    inside = ["nsenter", f"--net=/run/flota/netns/{asker.id}"]
    web = next(one for one in json.loads(m1.flota("service", "inspect", "web")))
    virtual = [one["Addr"].partition("/")[0] for one in web["Endpoint"]["VirtualIPs"]]
    assert len(virtual) == 2
    own = [address for node in swarm.lab.nodes.values() for address in (node.address, node.ipv6_address)]
    load = [sys.executable, str(HERE / "load.py")]
    pid = str(swarm.lab.nodes[place].pid)
    commands = [
        [*load, "0.004", "/cgi-bin/who", *(f"{address}:8080" for address in own)],
        [
            "nsenter",
            "-t",
            pid,
            "-m",
            *inside,
            *load,
            "0.004",
            "/cgi-bin/who",
            *(f"{address}:80" for address in virtual),
        ],
    ]
    clients = [subprocess.Popen(one, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for one in commands]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        m1.flota("service", "update", "--detach", "--hostname", "v2", "web")
        wait_until(
            lambda: all(task.spec.container.hostname == "v2" for task in swarm.tasks("web"))
            and swarm.running("web").total() == 4,
            "all tasks are new", 90,
        )  # fmt: skip
        results = [json.loads(client.communicate(timeout=60)[0]) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.wait()
    for result in results:
        assert not result["errors"], Counter(result["errors"])
        assert result["answers"]["v1"] > 0
        assert result["answers"]["v2"] > 0
