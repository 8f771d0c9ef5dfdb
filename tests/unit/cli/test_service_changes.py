"""`service create`, `update`, `scale`, `rollback`, `rm` against orchestrators, scheduler and agents that really act."""

import asyncio
import json
import re
import signal
import subprocess
import sys

import pytest

from flota.v1.control_pb2 import RemoveServiceRequest
from flota.v1.objects_pb2 import Service
from tests.unit.cli.conftest import Flota, Ran, on_terminal
from tests.unit.cli.daemon import Daemon

QUICK = ("--update-monitor", "10ms", "--rollback-monitor", "10ms", "--restart-delay", "0s", "--stop-grace-period", "0s")


def create(flota: Flota, *argv: str) -> Ran:
    return flota("service", "create", *QUICK, *argv)


def spec_of(daemon: Daemon, name: str) -> Service:
    return daemon.cluster.service(name)


def test_create_waits_until_the_tasks_are_stable(working: Daemon, flota: Flota) -> None:
    done = create(flota, "--name", "web", "--replicas", "3", "busybox", "top")
    assert (done.status, done.err) == (0, "")
    service = spec_of(working, "web")
    assert done.lines[0] == service.id
    assert "overall progress: 3 out of 3 tasks" in done.lines
    assert done.lines[-1] == "verify: Service web converged"
    assert list(service.spec.task.container.args) == ["top"]
    assert flota("service", "ls", "--format", "{{.Replicas}}").out == "3/3\n"


def test_quiet_and_formatted_output_have_no_progress(working: Daemon, flota: Flota) -> None:
    assert create(flota, "--name", "a", "-q", "busybox").lines == [spec_of(working, "a").id]
    done = create(flota, "--name", "b", "--format", "json", "--constraint", "node.nosuch==x", "-d", "busybox")
    assert json.loads(done.out) == {
        "ID": spec_of(working, "b").id,
        "Name": "b",
        "Replicas": 1,
        "Warnings": ["constraint 'node.nosuch==x' has a key that no node has: no task will ever be scheduled"],
    }
    assert done.err.startswith("Warning: constraint 'node.nosuch==x'")
    assert flota("service", "scale", "--format", "{{.Name}}={{.Replicas}}", "a=2").out == "a=2\n"
    assert flota("service", "update", "--format", "{{.ID}}", "--env-add", "A=1", "a").lines == [
        spec_of(working, "a").id
    ]
    assert flota("service", "rollback", "--format", "{{.ID}}", "a").lines == [spec_of(working, "a").id]


@pytest.mark.parametrize(
    "command",
    [
        ["update", "--constraint-add", "node.id==nope", "web"],
        ["scale", "web=3"],
        ["rollback", "web"],
        ["start", "web"],
        ["restart", "web"],
    ],
    ids=lambda command: command[0],
)
def test_a_wait_in_which_nothing_moves_ends(working: Daemon, flota: Flota, command: list[str]) -> None:
    nowhere = ["--constraint", "node.id==nope", "--update-monitor", "0s", "--rollback-monitor", "0s"]
    done = create(flota, "--name", "web", "--timeout", "200ms", *nowhere, "busybox")
    assert done.status == 1
    assert done.err.startswith("flota: nothing has moved for 200ms, so the wait is over: service web: ")
    assert "scheduling constraints not satisfied" in done.err
    if command[0] == "rollback":
        flota("service", "update", "-d", "--env-add", "A=1", "web")
    if command[0] == "start":
        flota("service", "stop", "web")
    verb, *rest = command
    done = flota("service", verb, "--timeout", "200ms", *rest)
    assert done.status == 1
    assert "nothing has moved for 200ms, so the wait is over: service web: " in done.err


def test_a_service_that_crashes_does_not_converge(working: Daemon, flota: Flota) -> None:
    done = create(flota, "--name", "bad", "--update-monitor", "60s", "crash")
    assert done.status == 1
    assert re.fullmatch(
        r"flota: service bad does not converge: task bad\.1 failed \d+ times \(last on (m1|w1)\): ended\n", done.err
    )


def test_jobs_are_waited_for_to_their_end(working: Daemon, flota: Flota) -> None:
    done = flota("service", "create", "--name", "job", "--mode", "replicated-job", "--replicas", "4", "busybox")
    assert (done.status, done.err) == (0, "")
    assert "overall progress: 4 out of 4 job tasks" in done.lines
    assert flota("service", "ls", "--format", "{{.Replicas}}").out == "0/0 (4/4 completed)\n"


def test_scale_checks_all_before_it_changes_any(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "-q", "busybox")
    create(flota, "--name", "agent", "-q", "--mode", "global", "busybox")
    done = flota("service", "scale", "web=3")
    assert (done.status, done.lines[0]) == (0, "web scaled to 3")
    for wrong, said in (
        ("agent=2", "flota: agent: scale can only be used with replicated or replicated-job mode, not global\n"),
        ("nope=2", "flota: no such service: nope\n"),
    ):
        done = flota("service", "scale", "web=5", wrong)
        assert (done.status, done.out, done.err) == (1, "", said)
    assert spec_of(working, "web").spec.replicated.replicas == 3


@pytest.mark.parametrize("text", ["web", "web=", "web=-1", "=3", "web=x", "web=1.5"])
def test_scales_that_are_none(working: Daemon, flota: Flota, text: str) -> None:
    done = flota("service", "scale", text)
    assert (done.status, done.out) == (125, "")
    assert done.err == f"flota: invalid scale {text!r}: SERVICE=REPLICAS is needed, such as web=3\n"


def test_update_replaces_tasks_and_rollback_brings_the_old_spec_back(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "-q", "--replicas", "2", "busybox:1")
    done = flota("service", "update", "--image", "busybox:2", "--env-add", "A=1", "web")
    assert (done.status, done.err, done.lines[0], done.lines[-1]) == (0, "", "web", "verify: Service web converged")
    container = spec_of(working, "web").spec.task.container
    assert (container.image, list(container.env)) == ("busybox:2", ["A=1"])
    running = {task.spec.container.image for task in working.cluster.store.tasks if task.status.state == 512}
    assert running == {"busybox:2"}
    done = flota("service", "rollback", "web")
    assert (done.status, done.err) == (0, "")
    assert spec_of(working, "web").spec.task.container.image == "busybox:1"
    done = flota("service", "update", "--rollback", "--image", "x", "web")
    assert done.status == 125
    assert done.err == "flota: other flags cannot be combined with --rollback (--image)\n"
    create(flota, "--name", "new", "-q", "busybox:1")
    done = flota("service", "rollback", "new")
    assert (done.status, done.out) == (1, "")
    assert done.err == "flota: service new has no previous spec to go back to: it was never updated\n"


def test_an_update_that_pauses_is_a_failure(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "-q", "--replicas", "2", "busybox:1")
    done = flota("service", "update", "--update-monitor", "60s", "--image", "crash", "web")
    assert done.status == 1
    assert done.err.startswith("flota: service web does not converge: service update paused: ")
    assert done.err.count("\n") == 1


def test_update_of_networks_secrets_and_ports_by_name(working: Daemon, flota: Flota) -> None:
    flota("network", "create", "front")
    flota("network", "create", "back")
    flota("secret", "create", "key", "/etc/hostname")
    assert create(flota, "--name", "web", "-d", "--network", "front", "--secret", "key", "busybox").status == 0
    secret = working.cluster.store.secrets.by_name("key")
    assert secret is not None
    (reference,) = spec_of(working, "web").spec.task.container.secrets
    assert (reference.secret_id, reference.file.name, reference.file.mode) == (secret.id, "key", 0o444)
    done = flota(
        "service", "update", "-d", "--network-rm", "front", "--network-add", "back", "--secret-rm", "key", "web"
    )
    assert (done.status, done.err) == (0, "")
    back = working.cluster.store.networks.by_name("back")
    assert back is not None
    assert [each.target for each in spec_of(working, "web").spec.task.networks] == [back.id]
    assert not spec_of(working, "web").spec.task.container.secrets
    done = flota("service", "update", "-d", "--network-rm", "front", "web")
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith("flota: --network-rm ")
    done = flota("service", "create", "-d", "--name", "x", "--secret", "nope", "busybox")
    assert (done.status, done.err) == (1, "flota: no such secret: nope\n")


def test_rm_prints_what_has_gone(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "-q", "busybox")
    done = flota("service", "rm", "web", "nope")
    assert (done.status, done.out, done.err) == (1, "web\n", "flota: no such service: nope\n")
    assert flota("service", "ls", "-q").out == ""


def test_a_service_that_is_removed_is_not_waited_for(swarm: Daemon, flota: Flota) -> None:
    async def remove() -> None:
        with swarm.cluster.store.watch("service") as changes:
            (created,) = await changes.next()
        await swarm.control.watches.get()
        await swarm.control.RemoveService(RemoveServiceRequest(service_id=created.object.id), None)

    removal = swarm.begin_soon(remove())
    done = create(flota, "--name", "web", "busybox")
    assert (done.status, done.err) == (1, "flota: service web was removed\n")
    removal.result(30)


def test_a_service_that_was_removed_before_the_wait_began(
    swarm: Daemon, flota: Flota, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flota.cli.waiting import Waiter

    begin = Waiter.run

    async def remove_first(self: Waiter) -> None:
        request = RemoveServiceRequest(service_id="web")
        await asyncio.wrap_future(swarm.begin_soon(swarm.control.RemoveService(request, None)))
        await begin(self)

    monkeypatch.setattr(Waiter, "run", remove_first)
    done = create(flota, "--name", "web", "busybox")
    assert (done.status, done.err) == (1, "flota: service web was removed\n")


def test_the_wait_goes_on_when_another_manager_leads(swarm: Daemon, flota: Flota) -> None:
    async def change_leader() -> None:
        leading = asyncio.create_task(swarm.control.run())
        await swarm.control.watches.get()
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        # Nothing runs yet: only a stream that was opened again can see what comes now.
        await swarm.control.watches.get()
        swarm.work()

    change = swarm.begin_soon(change_leader())
    done = create(flota, "--name", "web", "--replicas", "2", "busybox")
    assert (done.status, done.err, done.lines[-1]) == (0, "", "verify: Service web converged")
    change.result(30)


def test_a_global_service_without_a_node_is_told_of_and_not_waited_for(
    working: Daemon, flota: Flota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flota.cli.waiting._NO_NODE_SECONDS", 0.2)
    done = create(flota, "--name", "agent", "--mode", "global", "--constraint", "node.labels.x==y", "busybox")
    assert (done.status, done.err) == (0, "")
    assert done.lines[-1] == "agent: no node takes its tasks now; they start when one does"


def test_on_a_terminal_there_is_a_bar_for_each_task(working: Daemon) -> None:
    status, shown, err = on_terminal(
        working, "service", "create", *QUICK, "--name", "web", "--replicas", "2", "busybox"
    )
    assert (status, err) == (0, "")
    last = shown.split("\x1b[2K")
    bars = [line for line in last if re.match(r"[12]/2: running +\[=+\] (m1|w1)", line)]
    assert len(bars) >= 2
    assert any(line.startswith("verify: Service web converged") for line in last)


def test_ctrl_c_ends_the_wait_and_not_the_work(working: Daemon) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "flota.cli", "-H", working.host, "service", "create"),
            *("--name", "web", "--update-monitor", "60s", "busybox"),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while not process.stdout.readline().startswith("verify: Waiting"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    service = working.cluster.service("web")
    assert out.endswith(
        f"Operation continuing in background.\nUse `flota service ps {service.id}` to check progress.\n"
    )
    assert (process.returncode, err) == (0, "")
