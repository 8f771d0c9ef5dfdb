"""Published ports of a whole swarm: every node answers, tasks see the client, an update loses no request."""

import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from flota.node.lab import Lab
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

# Says who it is, which version, and whom it sees. When it is told to stop it goes on for a second: whoever was sent
# there before everybody knew is answered.
SERVER = (
    "mkdir -p /www/cgi-bin; cd /www/cgi-bin;"
    r' printf "#!/bin/sh\necho\necho \$HOSTNAME \$REMOTE_ADDR\n" > who; chmod +x who;'
    " export HOSTNAME; trap 'sleep 1; exit 0' TERM; httpd -f -p 80 -h /www & wait"
)
PROGRAM = ("busybox:latest", "sh", "-c", SERVER)
HEALTH = (
    *("--health-cmd", "wget -q -O /dev/null http://127.0.0.1/cgi-bin/who"),
    *("--health-interval", "5s", "--health-start-period", "10s", "--health-start-interval", "200ms"),
)


def ask(address: str, port: int = 8080) -> tuple[str, str]:
    """(who answered, whom it saw)."""
    with urllib.request.urlopen(f"http://{address}:{port}/cgi-bin/who", timeout=5) as answer:
        who, seen = answer.read().decode().split()
    return who, seen.strip("[]").removeprefix("::ffff:")


def answers(address: str, port: int = 8080) -> bool:
    try:
        return bool(ask(address, port))
    except OSError:
        return False


def own_address(lab: Lab) -> str:
    """How this machine, a client outside of the swarm, is known to a lab's nodes."""
    route = subprocess.run(
        ["ip", "-o", "route", "get", lab.nodes["m1"].address], capture_output=True, text=True, check=True
    )
    return route.stdout.split(" src ")[1].split()[0]


@pytest.fixture
def swarm(make_lab: Callable[..., Lab]) -> Iterator[Swarm]:
    """One manager and two workers."""
    with Swarm(make_lab(1, 2)) as swarm:
        yield swarm


def create(swarm: Swarm, *flags: str) -> None:
    swarm.lab.nodes["m1"].flota("service", "create", "--detach", "--name", "web", *flags, *HEALTH, *PROGRAM)


def nft(swarm: Swarm, node: str) -> str:
    return swarm.lab.nodes[node].exec(["nft", "list", "ruleset"]).stdout


def test_every_node_answers_and_the_task_sees_the_client(swarm: Swarm) -> None:
    nodes = swarm.lab.nodes
    create(swarm, "--replicas", "1", "--hostname", "{{.Task.Slot}}", "-p", "8080:80", "-p", "mode=host,target=80")
    wait_until(lambda: swarm.running("web").total() == 1, "web runs")
    client = own_address(swarm.lab)
    for name, node in nodes.items():
        wait_until(lambda node=node: answers(node.address), f"{name} answers")
        assert ask(node.address) == ("1", client), name
    # The port in host mode was chosen on the task's node, and is in its status; only that node answers there.
    [task] = swarm.tasks("web")
    [port] = task.status.ports.ports
    [its_node] = swarm.running("web")
    for name, node in nodes.items():
        assert answers(node.address, port.published_port) == (name == its_node)
    assert ask(nodes[its_node].address, port.published_port) == ("1", client)

    # It moves, and the mesh follows.
    nodes["m1"].flota("node", "update", "--availability", "drain", its_node)
    wait_until(lambda: its_node not in swarm.running("web") and swarm.running("web").total() == 1, "web has moved")
    for name, node in nodes.items():
        wait_until(lambda node=node: answers(node.address), f"{name} answers, a drained node too")

    nodes["m1"].flota("service", "rm", "web")
    for name in nodes:
        wait_until(lambda name=name: "flota" not in nft(swarm, name), f"nothing is left on {name}")


def test_an_update_under_load_loses_no_request(swarm: Swarm) -> None:
    m1 = swarm.lab.nodes["m1"]
    create(swarm, "--replicas", "3", "--hostname", "v1", "-p", "8080:80", "--update-monitor", "100ms")
    wait_until(lambda: swarm.running("web").total() == 3, "web runs")
    for node in swarm.lab.nodes.values():
        wait_until(lambda node=node: answers(node.address), "all nodes answer")

    said: Counter[str] = Counter()
    errors: list[str] = []
    stop = threading.Event()

    def load(address: str) -> None:
        while not stop.wait(0.02):
            try:
                said[ask(address)[0]] += 1
            except (OSError, ValueError) as error:
                errors.append(f"{address}: {error}")

    threads = [threading.Thread(target=load, args=(node.address,)) for node in swarm.lab.nodes.values()]
    for thread in threads:
        thread.start()
    try:
        m1.flota("service", "update", "--detach", "--hostname", "v2", "web")
        wait_until(
            lambda: all(task.spec.container.hostname == "v2" for task in swarm.tasks("web"))
            and swarm.running("web").total() == 3,
            "all tasks are new", 90,
        )  # fmt: skip
        before = said["v2"]
        wait_until(lambda: said["v2"] > before + 20, "the new ones answer")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert said["v1"] > 0
    assert errors == []
