"""Another root certificate for a swarm that works: nodes renew, services go on, and nobody is left behind."""

from collections.abc import Callable

import pytest

from flota.node.lab import Lab
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until


@pytest.mark.timeout(300)
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

        # A manager that was down at the beginning comes back into the middle of it; without it there is no end.
        lab.kill("m1")
        # One of the two leads, the other has a connection to it now, which was there before the rotation.
        for node in ("m2", "m3"):
            wait_until(lambda node=node: swarm.ready(node) == {"m2", "m3", "w1"}, "a new leader", 60)
        m2.flota("swarm", "ca", "--rotate", "--detach")
        told = m2.exec(["flota", "swarm", "ca", "--rotate", "--detach"], check=False)
        assert "is being rotated already" in told.stderr
        lab.start("m1")
        # Both answer all the time: who leads by itself, and who has to ask the one who leads.
        wait_until(
            lambda: before not in (m2.flota("swarm", "ca"), m3.flota("swarm", "ca")), "the end of the rotation", 90, 0.2
        )
        wait_until(lambda: swarm.ready("m2") == set(lab.nodes), "all nodes READY", 60)

        # A loss of power after it.
        lab.kill("m2")
        lab.start("m2")
        wait_until(lambda: swarm.ready("m2") == set(lab.nodes), "all nodes READY again", 90)

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
