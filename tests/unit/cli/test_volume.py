"""`flota volume`: of all nodes, and of this one."""

import json

import pytest

from flota.v1.local_pb2 import CreateVolumeRequest
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import Volume
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


@pytest.fixture
def volumes(swarm: Daemon) -> Daemon:
    """Node m1 (this one) and w1 have some."""
    swarm.run(swarm.cluster.add_node("w1"))
    for hostname, names in (("m1", ("data", "scratch")), ("w1", ("data",))):
        node = Node()
        node.CopyFrom(swarm.cluster.node(hostname))
        node.description.volumes.extend(Volume(name=name, driver="local", labels={"of": hostname}) for name in names)
        swarm.run(swarm.cluster.put(node))
    swarm.agent.volumes = [
        Volume(name="data", driver="local", mountpoint="/v/data", task_ids=["t1"], size_bytes=2048),
        Volume(name="scratch", driver="local", mountpoint="/v/scratch", size_bytes=-1),
    ]
    swarm.node_volumes.there = {
        swarm.cluster.node("m1").id: swarm.agent.volumes,
        swarm.cluster.node("w1").id: [Volume(name="data", driver="local", mountpoint="/w/data", size_bytes=10)],
    }
    return swarm


def test_ls_shows_where_they_are(volumes: Daemon, flota: Flota) -> None:
    done = flota("volume", "ls")
    assert [line.split() for line in done.lines] == [
        ["DRIVER", "VOLUME", "NAME", "NODE"],
        ["local", "data", "m1"],
        ["local", "data", "w1"],
        ["local", "scratch", "m1"],
    ]
    assert flota("volume", "ls", "-q").lines == ["data", "scratch"]
    assert flota("volume", "ls", "--filter", "node=w1", "--format", '{{.Name}} {{.Label "of"}}').lines == ["data w1"]
    assert volumes.node_volumes.asked == [], "what every manager knows is asked of no node"
    done = flota("volume", "ls", "--filter", "dangling=maybe")
    assert (done.status, done.err.startswith("flota: invalid --filter 'dangling=maybe'")) == (125, True)


def test_what_only_their_nodes_know_is_asked_of_them(volumes: Daemon, flota: Flota) -> None:
    line = ("--format", "{{.Name}} {{.Node}} {{.Size}} {{.Links}} {{.Mountpoint}}")
    ours, theirs, scratch = "data m1 2.05kB 1 /v/data", "data w1 10B 0 /w/data", "scratch m1 N/A 0 /v/scratch"
    assert flota("volume", "ls", *line).lines == [ours, theirs, scratch]
    assert flota("volume", "ls", "--filter", "dangling=true", *line).lines == [theirs, scratch]
    assert flota("volume", "ls", "--filter", "dangling=false", *line).lines == [ours]
    assert flota("volume", "ls", "--here", *line).lines == [ours, scratch]
    volumes.node_volumes.asked.clear()
    assert flota("volume", "ls", "--filter", "node=w1", *line).lines == [theirs]
    assert [one.node_id for one in volumes.node_volumes.asked] == [volumes.cluster.node("w1").id]


def test_of_a_node_that_does_not_answer_there_is_what_it_reported(volumes: Daemon, flota: Flota) -> None:
    volumes.node_volumes.silent = {volumes.cluster.node("m1").id}
    done = flota("volume", "ls", "--format", "{{.Name}} {{.Node}} {{.Size}} {{.Links}}")
    assert done.lines == ["data m1 N/A N/A", "data w1 10B 0", "scratch m1 N/A N/A"]
    assert (done.status, done.err) == (0, "flota: warning: Error response from daemon: node m1 is down\n")
    assert flota("volume", "ls", "--filter", "dangling=true", "--format", "{{.Node}}").lines == ["w1"]
    volumes.agent.volumes = []
    shown = json.loads(flota("volume", "inspect", "scratch").out)[0]
    assert (shown["Node"], "UsageData" in shown) == ("m1", False)


def test_inspect_asks_the_node_that_has_it(volumes: Daemon, flota: Flota) -> None:
    def shown(*command: str) -> tuple[str, str, int]:
        [one] = json.loads(flota("volume", "inspect", *command).out)
        return one["Node"], one["Mountpoint"], one["UsageData"]["Size"]

    assert shown("--node", "w1", "data") == ("w1", "/w/data", 10)
    assert shown("data") == ("m1", "/v/data", 2048)
    volumes.agent.volumes = []
    volumes.node_volumes.silent = {volumes.cluster.node("m1").id}
    done = flota("volume", "inspect", "--node", "w1", "scratch")
    assert (done.status, done.err) == (1, "flota: no such volume: scratch (it is on m1)\n")


def test_inspect_is_dockers_shape(volumes: Daemon, flota: Flota) -> None:
    shown = json.loads(flota("volume", "inspect", "data").out)[0]
    assert (shown["Name"], shown["Mountpoint"], shown["Tasks"], shown["Scope"]) == ("data", "/v/data", ["t1"], "local")
    done = flota("volume", "inspect", "none")
    assert (done.status, done.err) == (1, "flota: no such volume: none\n")


def test_create_sends_what_was_asked_for(volumes: Daemon, flota: Flota) -> None:
    done = flota("volume", "create", "--opt", "type=nfs", "-o", "device=:/x", "--label", "a=b", "data9")
    assert done.out == "data9\n"
    expected = CreateVolumeRequest(name="data9", labels={"a": "b"})
    expected.driver.name = "local"
    expected.driver.options.update({"type": "nfs", "device": ":/x"})
    assert volumes.agent.created == expected
    done = flota("volume", "create", "--opt", "type")
    assert (done.status, done.err) == (125, "flota: invalid --opt 'type': KEY=VALUE is needed\n")


def test_rm_says_where_the_others_are(volumes: Daemon, flota: Flota) -> None:
    done = flota("volume", "rm", "scratch")
    assert (done.status, done.out) == (0, "scratch\n")
    volumes.agent.volumes = []
    done = flota("volume", "rm", "data", "none")
    assert done.err == (
        "flota: no such volume on this node: data (it is on m1, w1: say which with --node)\n"
        "flota: no such volume: none\n"
    )
    assert flota("volume", "rm", "--force", "none").status == 0


def test_what_is_on_other_nodes_is_asked_of_the_managers(volumes: Daemon, flota: Flota) -> None:
    other = volumes.cluster.node("w1").id
    there = volumes.node_volumes
    assert flota("volume", "create", "--node", "w1", "fresh").out == "fresh\n"
    assert flota("volume", "rm", "--node", "w1", "data").out == "data\n"
    assert flota("volume", "prune", "--force", "--node", "w1").lines[0] == "scratch"
    assert [(one.node_id, type(one.request).__name__) for one in there.asked] == [
        (other, "CreateVolumeRequest"),
        (other, "RemoveVolumeRequest"),
        (other, "PruneVolumesRequest"),
    ]
    done = flota("volume", "rm", "--node", "nope", "data")
    assert (done.status, done.err) == (1, "flota: no such node: nope\n")


def test_a_volume_that_only_another_node_has_is_removed_there(volumes: Daemon, flota: Flota) -> None:
    node = Node()
    node.CopyFrom(volumes.cluster.node("w1"))
    node.description.volumes.add(name="only")
    volumes.run(volumes.cluster.put(node))
    assert flota("volume", "rm", "only").out == "only\n"
    (asked,) = volumes.node_volumes.asked
    assert (asked.node_id, asked.request.name) == (node.id, "only")


def test_prune_of_all_nodes_goes_on_when_one_does_not_answer(volumes: Daemon, flota: Flota) -> None:
    volumes.node_volumes.silent = {volumes.cluster.node("m1").id}
    done = flota("volume", "prune", "--force", "--all-nodes")
    assert (done.status, done.out) == (1, "scratch\nTotal reclaimed space: 1.5kB\n")
    assert done.err == "flota: Error response from daemon: node m1 is down\n"
    done = flota("volume", "prune", "--all-nodes", "--node", "w1")
    assert (done.status, done.err) == (125, "flota: --node and --all-nodes exclude each other\n")


def test_prune_asks_first(volumes: Daemon, flota: Flota) -> None:
    done = flota("volume", "prune", "--force", "--filter", "label=of")
    assert (done.out, dict(volumes.agent.pruned.labels)) == ("scratch\nTotal reclaimed space: 1.5kB\n", {"of": ""})
