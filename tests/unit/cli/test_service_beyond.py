"""`service explain`, `history`, `diff`, `rollback --to`, `restart`, `stop`, `start`, `rebalance`, `node update --wait`:
what Docker's command line has not, against orchestrators, scheduler and agents that really act."""

import re

from flota.v1.types_pb2 import Dependency, NodeAvailability, TaskState
from tests.unit.cli.conftest import Flota, Ran
from tests.unit.cli.daemon import Daemon

QUICK = ("--update-monitor", "10ms", "--rollback-monitor", "10ms", "--restart-delay", "0s", "--stop-grace-period", "0s")


def create(flota: Flota, *argv: str) -> Ran:
    done = flota("service", "create", *QUICK, "-q", *argv)
    assert (done.status, done.err) == (0, "")
    return done


def running(daemon: Daemon, name: str) -> list[str]:
    """Images of the service's tasks that run and shall."""
    service = daemon.cluster.service(name)
    tasks = daemon.cluster.store.tasks.by("service", service.id)
    state = TaskState.TASK_STATE_RUNNING
    return [task.spec.container.image for task in tasks if task.status.state == task.desired_state == state]


def test_explain_says_why_tasks_are_where_they_are(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "--replicas", "2", "busybox:1")
    done = flota("service", "explain", "web")
    assert (done.status, done.err, done.lines[0]) == (0, "", "web: replicated")
    assert re.search(r"^web\.1  \w{12}  running on (m1|w1)$", done.out, re.MULTILINE)
    assert re.search(r"orchestrator +2 replicas are wanted, and slot 1 had no task", done.out)
    assert re.search(
        r"scheduler +on (m1|w1), one of 2 nodes that fit: it had 0 tasks of the service, 0 in all", done.out
    )
    assert "fits" in flota("service", "explain", "--nodes", "web").out


def test_explain_says_why_a_task_waits_node_by_node_and_filter_by_filter(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "far", "-d", "--constraint", "node.labels.zone==moon", "--reserve-cpu", "1000", "busybox")
    working.until_pending("far")
    done = flota("service", "explain", "far")
    assert "far.1" in done.out
    assert "pending, wanted running: no suitable node (insufficient resources on 2 nodes)" in done.out
    for name in ("m1", "w1"):
        row = next(line for line in done.lines if line.startswith(f"  {name} "))
        assert re.search(
            r"resources: 1000 CPUs are asked for, [\d.]+ are free; constraints: node.labels.zone==moon$", row
        )


def test_ps_shows_the_newest_decision_with_why(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "busybox")
    assert "WHY" not in flota("service", "ps", "web").lines[0]
    done = flota("service", "ps", "--why", "web")
    assert done.lines[0].endswith("WHY")
    assert "nodes that fit: it had" in done.lines[1]
    assert flota("service", "ps", "--format", "{{.Why}}", "web").out.startswith("on ")


def test_history_diff_and_rollback_to_any_kept_revision(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "busybox:1")
    for image in ("busybox:2", "busybox:3"):
        assert flota("service", "update", "-q", "--image", image, "--env-add", f"V={image[-1]}", "web").status == 0
    rows = flota("service", "history", "web").lines
    assert [row.split()[:1] for row in rows] == [["REVISION"], ["3"], ["2"], ["1"]]
    assert rows[1].split()[1] == "*"
    assert flota("service", "history", "--format", "{{.Revision}} {{.Image}} {{.Changes}}", "web").lines == [
        "3 busybox:3 environment.V, image", "2 busybox:2 environment.V, image", "1 busybox:1 "
    ]  # fmt: skip
    assert flota("service", "diff", "web").lines == ["environment.V: 2 → 3", "image: busybox:2 → busybox:3"]
    assert flota("service", "diff", "web", "3", "1").lines == [
        "environment.V: 3 → (none)",
        "image: busybox:3 → busybox:1",
    ]
    done = flota("service", "rollback", "--to", "1", "web")
    assert (done.status, done.err) == (0, "")
    assert running(working, "web") == ["busybox:1"]
    assert [row.split()[:2] for row in flota("service", "history", "web").lines[1:]][2] == ["1", "*"]
    done = flota("service", "rollback", "--to", "9", "web")
    assert (done.status, done.err) == (
        1, "flota: Error response from daemon: service web has no revision 9: kept are 1 to 3\n"
    )  # fmt: skip
    done = flota("service", "diff", "web", "1", "9")
    assert done.err == "flota: service web has no revision 9: kept are 1 to 3\n"


def test_restart_replaces_the_tasks_of_the_same_spec(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "--replicas", "2", "busybox:1")
    service = working.cluster.service("web")
    before = {task.id for task in working.cluster.store.tasks.by("service", service.id)}
    done = flota("service", "restart", "web")
    assert (done.status, done.err, done.lines[0]) == (0, "", "web")
    tasks = working.cluster.store.tasks.by("service", service.id)
    assert not before & {task.id for task in tasks if task.desired_state == TaskState.TASK_STATE_RUNNING}
    assert running(working, "web") == ["busybox:1"] * 2


def test_stop_and_start_keep_the_service_and_its_replicas(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "--replicas", "2", "busybox:1")
    done = flota("service", "stop", "web")
    assert (done.status, done.err, done.lines[-1]) == (0, "", "verify: Service web converged")
    assert running(working, "web") == []
    assert flota("service", "ls", "--format", "{{.Replicas}}").out == "0/0 (stopped)\n"
    assert flota("service", "stop", "web").lines == ["web"]
    done = flota("service", "restart", "web")
    assert done.err == "flota: service web is stopped: flota service start begins its tasks\n"
    assert flota("service", "update", "-q", "--image", "busybox:2", "web").status == 0
    assert flota("service", "start", "web").status == 0
    assert running(working, "web") == ["busybox:2"] * 2


def test_a_rebalance_is_shown_before_it_is_done(working: Daemon, flota: Flota) -> None:
    w1 = working.cluster.node("w1")
    assert flota("node", "update", "--availability", "pause", "w1").status == 0
    create(flota, "--name", "web", "--replicas", "4", "busybox:1")
    assert flota("service", "rebalance").out == "Nothing to move.\n"
    assert flota("node", "update", "--availability", "active", "w1").status == 0
    done = flota("service", "rebalance", "--dry-run")
    assert [line.split()[1:3] for line in done.lines[1:]] == [["m1", "w1"], ["m1", "w1"]]
    assert "4 of its tasks are on m1, 0 on w1" in done.lines[1]
    assert not working.cluster.store.tasks.by("node", w1.id)
    done = flota("service", "rebalance", "web")
    assert done.lines[-1].startswith("2 tasks are being moved")
    working.until(lambda: len(working.cluster.store.tasks.by("node", w1.id)) == 2)


def test_a_drain_that_waits_ends_when_nothing_runs_there(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "--replicas", "4", "--update-order", "start-first", "busybox:1")
    done = flota("node", "update", "--availability", "drain", "--wait", "w1")
    assert (done.status, done.err) == (0, "")
    assert (done.lines[0], done.lines[-1]) == ("w1", "Node w1 runs no tasks.")
    assert {t.node_id for t in working.cluster.store.tasks if t.status.state == TaskState.TASK_STATE_RUNNING} == {
        working.cluster.own_id
    }
    assert working.cluster.node("w1").spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
    done = flota("node", "update", "--availability", "active", "--wait", "w1")
    assert (done.status, done.err) == (125, "flota: --wait goes with --availability drain only\n")


def test_a_drain_that_cannot_end_says_what_is_left_and_why(working: Daemon, flota: Flota) -> None:
    create(
        flota, "--name", "web", "--update-order", "start-first", "--constraint", "node.hostname==w1", "busybox:1"
    )  # fmt: skip
    done = flota("node", "update", "--availability", "drain", "--wait", "--wait-timeout", "1s", "w1")
    assert done.status == 1
    assert re.fullmatch(
        r"flota: not drained within 1 s: web\.1 \(no suitable node \(.*\)\) is still there\n", done.err
    )  # fmt: skip


def test_a_dependency_is_waited_for_and_a_cycle_is_refused(working: Daemon, flota: Flota) -> None:
    create(flota, "--name", "app", "-d", "--depends-on", "db", "busybox")
    working.until(lambda: bool(working.cluster.service("app").waits_for))
    assert "waits for service db, which does not exist" in flota("service", "explain", "app").lines
    done = flota("service", "create", "--name", "db", "--depends-on", "app", "busybox")
    assert done.err == (
        "flota: Error response from daemon: invalid dependency 'app': it depends on db itself: app → db\n"
    )
    create(flota, "--name", "db", "busybox")
    working.until(lambda: running(working, "app") == ["busybox"])
    done = flota("service", "update", "-q", "--depends-on-rm", "db", "--depends-on-add", "x:completed", "app")
    assert (done.status, done.err) == (0, "")
    dependencies = working.cluster.service("app").spec.depends_on
    assert list(dependencies) == [Dependency(service="x", condition=Dependency.CONDITION_COMPLETED)]
    done = flota("service", "create", "--depends-on", "db:done", "busybox")
    assert done.err == (
        "flota: invalid --depends-on 'db:done': SERVICE[:CONDITION] is needed, with one of "
        "started, healthy, completed\n"
    )
