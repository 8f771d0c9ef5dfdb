"""Another root certificate for a swarm that works: nodes renew, services go on, and nobody is left behind."""

import collections
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from flota.node.lab import Lab
from flota.node.lab.lab import LabNode
from flota.rpc import x509_facts
from flota.v1.control_pb2 import GetClusterRequest
from flota.v1.local_pb2 import InfoRequest
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until


@pytest.mark.timeout(600)
def test_the_root_is_replaced_while_services_run(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(managers=3, workers=1)
    with Swarm(lab) as swarm:
        m2, m3 = lab.nodes["m2"], lab.nodes["m3"]
        # Nothing hears SIGTERM in them: a node that leaves would wait for the whole of their grace.
        brief = ["--replicas", "4", "--stop-grace-period", "1s"]
        m2.flota("service", "create", "-d", "--name", "web", *brief, "busybox", "sleep", "1000")
        wait_until(lambda: swarm.running("web", "m2").total() == 4, "four tasks")
        tasks = {task.id for task in swarm.tasks("web", "m2")}
        before = m2.flota("swarm", "ca")
        old_token = m2.flota("swarm", "join-token", "-q", "worker").strip()

        # Who has heard of nobody else by then would wait for the one that is gone.
        local = [swarm.local(name) for name in lab.nodes]
        wait_until(
            lambda: all(len(one.Info(InfoRequest(), timeout=60).managers) == 3 for one in local), "three managers"
        )
        # A manager that was down at the beginning comes back into the middle of it; without it there is no end.
        lab.kill("m1")
        # One of the two leads, the other has a connection to it now, which was there before the rotation.
        for node in ("m2", "m3"):
            wait_until(lambda node=node: swarm.ready(node) == {"m2", "m3", "w1"}, "a new leader", 120)
        m2.flota("swarm", "ca", "--rotate", "--detach")
        given_up = swarm.control("m2").GetCluster(GetClusterRequest(), timeout=60).cluster.root_ca.rotation.certificate
        wait_until(lambda: renewed(swarm, given_up) == {"m2", "m3", "w1"}, "new certificates", 150)
        # There is no end without m1; another one may be begun.
        m2.flota("swarm", "ca", "--rotate", "--detach")
        lab.start("m1")
        # Both answer all the time: who leads by itself, and who has to ask the one who leads.
        wait_until(
            lambda: before not in (m2.flota("swarm", "ca"), m3.flota("swarm", "ca")),
            "the end of the rotation",
            240,
            0.2,
        )
        wait_until(lambda: swarm.ready("m2") == set(lab.nodes), "all nodes READY", 120)

        # A loss of power after it.
        lab.kill("m2")
        lab.start("m2")
        wait_until(lambda: swarm.ready("m2") == set(lab.nodes), "all nodes READY again", 120)

        token = m2.flota("swarm", "join-token", "-q", "worker").strip()
        w1 = lab.nodes["w1"]
        w1.flota("swarm", "leave")
        refused = w1.exec(["flota", "swarm", "join", "--token", old_token, lab.nodes["m3"].address], check=False)
        assert "refused the join token" in refused.stderr
        w1.flota("swarm", "join", "--token", token, lab.nodes["m3"].address)
        on_m3 = [task for task in swarm.tasks("web", "m3") if task.node_id == swarm.nodes("m3")["m3"].id]
        # What ran where nothing was switched off runs there still.
        assert on_m3
        assert {task.id for task in on_m3} & tasks


def renewed(swarm: Swarm, root: bytes) -> set[str]:
    """The nodes that say that they have a certificate of the root."""
    return {name for name, node in swarm.nodes("m2").items() if x509_facts.is_issuer(root, node.description.tls_info)}


# Counts on its standard output, ten lines a second.
COUNT = "i=0; while :; do echo $i; i=$((i + 1)); sleep 0.1; done"


@contextlib.contextmanager
def followed(node: LabNode, *argv: str) -> Iterator["subprocess.Popen[str]"]:
    """A `flota …` that goes on."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "flota.cli", *argv],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        env={**os.environ, **node.environment()},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timeout(600)
def test_what_people_follow_goes_on_while_the_root_is_replaced(lab: Lab, swarm: Swarm) -> None:
    m1 = lab.nodes["m1"]
    m1.flota("service", "create", "--name", "count", "--replicas", "4",
             "--stop-grace-period", "1s", "busybox", "sh", "-c", COUNT)  # fmt: skip
    before = {(task.id, task.status.container.pid) for task in swarm.tasks("count")}
    # A manager that leads and one that has to ask it, about tasks of managers and of workers.
    callers = [*lab.nodes.values()][:2]
    slots = range(1, 5)
    with contextlib.ExitStack() as stack:
        commands = [
            stack.enter_context(followed(node, "exec", "-i", f"count.{slot}", "cat"))
            for node, slot in itertools.product(callers, slots)
        ]
        logs = [stack.enter_context(followed(node, "service", "logs", "--raw", "-f", "count")) for node in callers]
        answers(commands, "before")
        counts = [Counted(one) for one in logs]
        for one in counts:
            one.until(4)

        m1.flota("swarm", "ca", "--rotate", "--quiet")

        answers(commands, "after")
        for one in counts:
            one.until(20)
        for command in commands:
            said, told = command.communicate(timeout=60)
            assert (command.returncode, said, told) == (0, "", "")
    assert {(task.id, task.status.container.pid) for task in swarm.tasks("count")} == before


def answers(commands: "list[subprocess.Popen[str]]", words: str) -> None:
    """Each command says what it is told."""
    for command in commands:
        assert command.poll() is None, command.communicate()[1]
        assert command.stdin is not None
        assert command.stdout is not None
        command.stdin.write(f"{words}\n")
        assert command.stdout.readline() == f"{words}\n", command.communicate()[1]


class Counted:
    """The logs of four tasks that count, without a line that is missing or said twice."""

    def __init__(self, logs: "subprocess.Popen[str]") -> None:
        self._logs = logs
        self._seen: collections.Counter[int] = collections.Counter()

    def until(self, further: int) -> None:
        """Read until each of the four has counted so much further."""
        goal = max(self._seen, default=-1) + further
        assert self._logs.stdout is not None
        while self._seen[goal] < 4:
            line = self._logs.stdout.readline()
            assert line, self._logs.communicate()[1]
            self._seen[int(line)] += 1
        assert [number for number in range(goal + 1) if self._seen[number] != 4] == []
