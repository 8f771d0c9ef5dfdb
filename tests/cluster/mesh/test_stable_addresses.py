"""A service's replicas keep their addresses over restarts, updates, other nodes and scalings (moby#24170)."""

import pytest

from flota.v1.types_pb2 import TASK_STATE_RUNNING
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.xdist_group("lab")


def test_replicas_keep_their_addresses(swarm: Swarm) -> None:
    m1 = swarm.lab.nodes["m1"]
    m1.flota("network", "create", "kept")

    def running() -> dict[int, tuple[str, str, str]]:
        """Slot → task, node, address."""
        return {
            task.slot: (task.id, task.node_id, task.networks[0].addresses[0])
            for task in swarm.tasks("db")
            if task.status.state == TASK_STATE_RUNNING
        }

    def replaced(before: dict[int, tuple[str, str, str]], *slots: int) -> None:
        """Wait until the slots have other tasks; they have the addresses of before."""
        ids = {task for task, *_ in before.values()}
        wait_until(
            lambda: len(running()) == 2 and all(running()[slot][0] not in ids for slot in slots), "others run", 90
        )
        assert {slot: here[2] for slot, here in running().items()} == {slot: here[2] for slot, here in before.items()}

    option = "name=kept,driver-opt=stable-address=true"
    what = ("--replicas", "2", "--network", option, "--update-parallelism", "0", "--restart-delay", "0s")
    m1.flota(
        "service", "create", "--detach", "--name", "db", *what, "--stop-signal", "KILL", "busybox", "sleep", "9999"
    )
    wait_until(lambda: len(running()) == 2, "both run", 60)
    first = running()

    m1.flota("task", "kill", "-s", "KILL", first[1][0])
    replaced(first, 1)
    second = running()
    m1.flota("service", "update", "--detach", "--env-add", "A=1", "db")
    replaced(second, 1, 2)
    third = running()
    name = next(name for name, node in swarm.nodes().items() if node.id == third[2][1])
    m1.flota("node", "update", "--availability", "drain", name)
    replaced(third, 2)
    assert running()[2][1] != third[2][1]
    m1.flota("service", "scale", "--detach", "db=0")
    wait_until(lambda: not running(), "none runs", 60)
    m1.flota("service", "scale", "--detach", "db=2")
    replaced(third, 1, 2)

    # They answer where the names of the slots lead: on each other's nodes too.
    here = running()
    inside = next(node for node, one in swarm.nodes().items() if one.id == here[1][1])
    ping = ["nsenter", f"--net=/run/flota/netns/{here[1][0]}", "busybox", "ping", "-c1", "-W2", "-q"]
    wait_until(
        lambda: swarm.lab.nodes[inside].exec([*ping, here[2][2].partition("/")[0]], check=False).returncode == 0,
        "slot 2 answers slot 1", 30,
    )  # fmt: skip
