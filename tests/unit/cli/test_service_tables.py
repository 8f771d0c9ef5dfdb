"""`service ls` and `service ps`: Docker's tables, from the real control API."""

import json

from flota.v1.objects_pb2 import Service
from flota.v1.types_pb2 import PortConfig, TaskState, UpdateStatus
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


def create(flota: Flota, *argv: str) -> str:
    """Create a service; gives back its id."""
    done = flota("service", "create", "--detach", *argv)
    assert (done.status, done.err) == (0, "")
    return done.out.strip()


def test_service_ls_shows_what_runs_of_what_shall_run(swarm: Daemon, flota: Flota) -> None:
    web = create(flota, "--name", "web", "--replicas", "3", "registry:5000/web:1.2@sha256:" + "0" * 64)
    agent = create(flota, "--name", "agent", "--mode", "global", "busybox")
    swarm.run(swarm.cluster.add_task("web", 1, "m1"))
    swarm.run(swarm.cluster.add_task("web", 2, "m1", TaskState.TASK_STATE_STARTING))
    swarm.run(swarm.cluster.add_task("agent", 0, "m1"))
    done = flota("service", "ls")
    assert done.out == (
        "ID             NAME      MODE         REPLICAS   IMAGE                   PORTS\n"
        f"{agent[:12]}   agent     global       1/1        busybox\n"
        f"{web[:12]}   web       replicated   1/3        registry:5000/web:1.2\n"
    )
    assert flota("service", "ls", "-q").lines == [agent[:12], web[:12]]
    assert flota("service", "ls", "-q", "--no-trunc").lines == [agent, web]
    assert flota("service", "ls", "--format", "{{.Name}} {{.Replicas}}").lines == ["agent 1/1", "web 1/3"]
    assert json.loads(flota("service", "ls", "--filter", "name=we", "--format", "json").out) == {
        "ID": web[:12], "Name": "web", "Mode": "replicated", "Replicas": "1/3", "Image": "registry:5000/web:1.2",
        "Ports": "",
    }  # fmt: skip


def test_service_ls_without_services_has_only_its_header(swarm: Daemon, flota: Flota) -> None:
    assert flota("service", "ls").out == "ID        NAME      MODE      REPLICAS   IMAGE     PORTS\n"
    assert flota("service", "ls", "-q").out == ""
    assert flota("service", "ls", "--format", "json").out == ""


def test_service_ls_filters_are_anded_and_their_values_ored(swarm: Daemon, flota: Flota) -> None:
    web = create(flota, "--name", "web", "--label", "tier=front", "--label", "team=a", "busybox")
    create(flota, "--name", "db", "--label", "tier=back", "busybox")
    create(flota, "--name", "agent", "--mode", "global", "busybox")

    def names(*filters: str) -> list[str]:
        flags = [argument for each in filters for argument in ("--filter", each)]
        return flota("service", "ls", "--format", "{{.Name}}", *flags).lines

    assert names("name=web", "name=db") == ["db", "web"]
    assert names("mode=replicated", "label=tier") == ["db", "web"]
    assert names("label=tier=front", "label=team=a") == ["web"]
    assert names("label=tier=front", "label=team=b") == []
    assert names("mode=GLOBAL") == ["agent"]
    assert names(f"id={web[:5]}") == ["web"]


def test_jobs_and_a_maximum_per_node_are_told_with_the_replicas(swarm: Daemon, flota: Flota) -> None:
    create(flota, "--name", "capped", "--replicas", "2", "--replicas-max-per-node", "1", "busybox")
    create(flota, "--name", "once", "--mode", "replicated-job", "--replicas", "5", "--max-concurrent", "2", "busybox")
    create(flota, "--name", "sweep", "--mode", "global-job", "busybox")
    complete, running = TaskState.TASK_STATE_COMPLETE, TaskState.TASK_STATE_RUNNING
    for name, slots in (("once", (1, 2)), ("sweep", (0,))):
        for slot in slots:
            swarm.run(swarm.cluster.add_task(name, slot, "m1", complete, complete))
    swarm.run(swarm.cluster.add_node("w1"))
    swarm.run(swarm.cluster.add_task("once", 3, "m1", running, complete))
    swarm.run(swarm.cluster.add_task("sweep", 0, "w1", running, complete))
    assert flota("service", "ls", "--format", "{{.Mode}} {{.Replicas}}").lines == [
        "replicated 0/2 (max 1 per node)",
        "replicated job 1/1 (2/5 completed)",
        "global job 1/1 (1/2 completed)",
    ]


def test_service_ps_shows_each_slot_with_its_history(swarm: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "--replicas", "11", "busybox:1.36")
    failed, shutdown = TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_SHUTDOWN
    add = swarm.cluster.add_task
    ten = swarm.run(add("web", 10, "m1", age=7200))
    old = swarm.run(add("web", 2, "m1", failed, shutdown, error="task: non-zero exit (137): killed", age=130))
    port = PortConfig(target_port=80, published_port=8080, publish_mode=PortConfig.PUBLISH_MODE_HOST)
    new = swarm.run(add("web", 2, "m1", age=5.5, ports=[port]))
    waiting = swarm.run(add("web", 3, "", TaskState.TASK_STATE_PENDING, age=0.2))
    assert flota("service", "ps", "web").out == (
        "ID             NAME        IMAGE          NODE      DESIRED STATE   CURRENT STATE                    "
        "ERROR                              PORTS\n"
        f"{new.id[:12]}   web.2       busybox:1.36   m1        Running         Running 5 seconds ago            "
        "                                   *:8080->80/tcp\n"
        f"{old.id[:12]}    \\_ web.2   busybox:1.36   m1        Shutdown        Failed 2 minutes ago             "
        '"task: non-zero exit (137): ki…"\n'
        f"{waiting.id[:12]}   web.3       busybox:1.36             Running         "
        "Pending less than a second ago\n"
        f"{ten.id[:12]}   web.10      busybox:1.36   m1        Running         Running 2 hours ago\n"
    )
    form = "{{.Name}} {{.Error}}"
    assert flota("service", "ps", "--no-trunc", "-f", "desired-state=shutdown", "--format", form, "web").lines == [
        'web.2 "task: non-zero exit (137): killed"'
    ]
    assert flota("service", "ps", "-q", "web", "--filter", "node=m1").lines == [
        each.id[:12] for each in (new, old, ten)
    ]


def test_service_ps_of_several_services_tells_which_one_there_is_not(swarm: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "busybox")
    create(flota, "--name", "agent", "--mode", "global", "busybox")
    swarm.run(swarm.cluster.add_task("web", 1, "m1"))
    swarm.run(swarm.cluster.add_task("agent", 0, "m1"))
    done = flota("service", "ps", "--format", "{{.Name}} {{.Node}}", "agent", "nope", "web", "nor-this")
    assert done.lines == [f"agent.{swarm.cluster.own_id} m1", "web.1 m1"]
    assert done.err == "flota: no such service: nope\nflota: no such service: nor-this\n"
    assert done.status == 1
    service, node = swarm.cluster.service("web").id, swarm.cluster.own_id
    assert flota("service", "ps", "--no-resolve", "--format", "{{.Name}} {{.Node}}", "web").lines == [
        f"{service}.1 {node}"
    ]


def test_inspect_pretty_shows_how_far_an_update_has_got(swarm: Daemon, flota: Flota) -> None:
    create(flota, "--name", "web", "--replicas", "3", "--strategy", "binpack", "--reserve-cpu", "1", "busybox:1")
    swarm.run(swarm.cluster.add_task("web", 1, "m1"))
    swarm.run(swarm.cluster.add_task("web", 2, "m1"))
    flota("service", "update", "--detach", "--image", "busybox:2", "web")
    updating = Service()
    updating.CopyFrom(swarm.cluster.service("web"))
    updating.update_status.state = UpdateStatus.STATE_UPDATING
    updating.update_status.message = "update in progress"
    swarm.run(swarm.cluster.put(updating))
    swarm.run(swarm.cluster.add_task("web", 3, "m1"))
    pretty = flota("service", "inspect", "--pretty", "web").lines
    assert pretty[pretty.index(" Message:               update in progress") + 1] == (
        " Progress:              1 of 3 tasks are up to date"
    )
    assert " Strategy:              binpack" in pretty
    updating.CopyFrom(swarm.cluster.service("web"))
    updating.update_status.state = UpdateStatus.STATE_COMPLETED
    swarm.run(swarm.cluster.put(updating))
    assert not any("Progress" in line for line in flota("service", "inspect", "--pretty", "web").lines)
