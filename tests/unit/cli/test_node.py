"""`flota node`: Docker's words, from the real control API."""

import json

from flota.v1.types_pb2 import NodeAvailability, NodeRole, NodeState
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon

MANAGER, WORKER = NodeRole.NODE_ROLE_MANAGER, NodeRole.NODE_ROLE_WORKER


def test_node_ls_marks_self_and_the_leader(swarm: Daemon, flota: Flota) -> None:
    m1 = swarm.cluster.own_id
    m2 = swarm.run(swarm.cluster.add_node("m2", MANAGER)).id
    w10 = swarm.run(swarm.cluster.add_node("w10", state=NodeState.NODE_STATE_DOWN)).id
    w9 = swarm.run(swarm.cluster.add_node("w9")).id
    assert flota("node", "ls").out == (
        "ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION\n"
        f"{m1} *   m1         Ready     Active         Leader           0.1.0\n"
        f"{m2}     m2         Ready     Active         Reachable        0.1.0\n"
        f"{w9}     w9         Ready     Active                          0.1.0\n"
        f"{w10}     w10        Down      Active                          0.1.0\n"
    )
    assert flota("node", "ls", "-q").lines == [m1, m2, w9, w10]
    assert flota("node", "ls", "--filter", "role=manager", "--format", "{{.Hostname}}").lines == ["m1", "m2"]
    assert json.loads(flota("node", "ls", "--filter", "name=m1", "--format", "json").out) == {
        "ID": m1, "Self": True, "Hostname": "m1", "Status": "Ready", "Availability": "Active",
        "ManagerStatus": "Leader", "EngineVersion": "0.1.0", "TLSStatus": "Unknown", "Address": "10.0.0.1",
        "Labels": "",
    }  # fmt: skip


def test_promote_and_demote_say_what_they_did(swarm: Daemon, flota: Flota) -> None:
    swarm.run(swarm.cluster.add_node("w1"))
    assert flota("node", "promote", "w1").out == "Node w1 promoted to a manager in the swarm.\n"
    assert swarm.cluster.node("w1").spec.desired_role == MANAGER
    assert flota("node", "promote", "w1").out == "Node w1 is already a manager.\n"
    assert flota("node", "demote", "w1").out == "Manager w1 demoted in the swarm.\n"
    assert flota("node", "demote", "w1").out == "Node w1 is already a worker.\n"
    done = flota("node", "demote", "nope", "m1")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "flota: no such node: nope\n"
        "flota: Error response from daemon: node m1 is the last manager of the swarm: it cannot be demoted\n"
    )


def test_node_update_changes_what_is_named_and_nothing_else(swarm: Daemon, flota: Flota) -> None:
    swarm.run(swarm.cluster.add_node("w1"))
    done = flota("node", "update", "--availability", "drain", "--label-add", "disk=ssd", "--label-add", "b", "w1")
    assert (done.status, done.out) == (0, "w1\n")
    spec = swarm.cluster.node("w1").spec
    assert spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
    assert dict(spec.annotations.labels) == {"disk": "ssd", "b": ""}
    assert flota("node", "update", "--label-rm", "b", "w1").status == 0
    spec = swarm.cluster.node("w1").spec
    assert (spec.availability, dict(spec.annotations.labels)) == (2, {"disk": "ssd"})
    assert flota("node", "ls", "--filter", "node.label=disk=ssd", "--format", "{{.Hostname}}").lines == ["w1"]
    done = flota("node", "update", "--label-rm", "b", "w1")
    assert (done.status, done.err) == (1, "flota: node w1 has no label 'b'\n")


def test_node_rm_wants_nodes_to_be_down_or_force(swarm: Daemon, flota: Flota) -> None:
    swarm.run(swarm.cluster.add_node("w1"))
    swarm.run(swarm.cluster.add_node("w2", state=NodeState.NODE_STATE_DOWN))
    done = flota("node", "rm", "w1", "w2")
    assert (done.status, done.out) == (1, "w2\n")
    assert done.err == (
        "flota: Error response from daemon: node w1 is ready, not down: stop flota on it first, or use force\n"
    )
    assert flota("node", "rm", "--force", "w1").out == "w1\n"
    assert [node.description.hostname for node in swarm.cluster.store.nodes] == ["m1"]


def test_node_ps_is_about_this_node_unless_others_are_named(swarm: Daemon, flota: Flota) -> None:
    swarm.run(swarm.cluster.add_node("w1"))
    assert flota("service", "create", "-d", "--name", "web", "--replicas", "2", "busybox").status == 0
    swarm.run(swarm.cluster.add_task("web", 1, "m1"))
    swarm.run(swarm.cluster.add_task("web", 2, "w1"))
    form = ("--format", "{{.Name}}@{{.Node}}")
    assert flota("node", "ps", *form).lines == ["web.1@m1"]
    assert flota("node", "ps", *form, "w1", "self").lines == ["web.1@m1", "web.2@w1"]
    assert flota("node", "ps", *form, "--filter", "name=web.2", "self", "w1").lines == ["web.2@w1"]
    assert flota("node", "ps", "nope").err == "flota: no such node: nope\n"


def test_node_inspect_in_dockers_shape_and_for_people(swarm: Daemon, flota: Flota) -> None:
    (shape,) = json.loads(flota("node", "inspect", "self").out)
    assert shape["Description"]["Hostname"] == "m1"
    assert shape["ManagerStatus"] == {"Leader": True, "Reachability": "reachable", "Addr": "10.0.0.1:2377"}
    assert flota("node", "inspect", "--format", "{{.Status.State}} {{.Spec.Role}}", "m1").out == "ready manager\n"
    pretty = flota("node", "inspect", "--pretty", "m1").lines
    assert "Hostname:               m1" in pretty
    assert " Leader:                Yes" in pretty
    done = flota("node", "inspect", "m1", "nope")
    assert [each["ID"] for each in json.loads(done.out)] == [swarm.cluster.own_id]
    assert (done.status, done.err) == (1, "flota: no such node: nope\n")
    done = flota("node", "inspect", "--pretty", "--format", "json", "m1")
    assert (done.status, done.err) == (125, "flota: --pretty and --format cannot be combined: choose one\n")
