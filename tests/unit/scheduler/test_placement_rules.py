"""The scheduler's rules (docs/orchestration.md, "Scheduling"), each by its name."""

from collections import Counter
from random import Random

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from flota.manager.constraint import ConstraintError, node_fits, parse
from flota.manager.scheduler.demand import BINPACK, SPREAD, Demand
from flota.manager.scheduler.filters import FILTERS, explain, refusals
from flota.manager.scheduler.nodes import FAILURES_COUNT_FOR, NodeSet
from flota.manager.scheduler.placement import Group, Outcome, Placement
from flota.v1.objects_pb2 import Node, Task
from flota.v1.types_pb2 import NodeAvailability, NodePressure, NodeRole, NodeState, TaskState

GIB = 1 << 30


def node(name: str, cpus: float = 8, memory: int = 16, **labels: str) -> Node:
    made = Node(id=name)
    made.description.hostname = name
    made.status.state = NodeState.NODE_STATE_READY
    made.description.platform.os, made.description.platform.architecture = "linux", "x86_64"
    made.description.resources.nano_cpus = int(cpus * 1e9)
    made.description.resources.memory_bytes = memory * GIB
    made.spec.annotations.labels.update(labels)
    return made


class Cluster:
    """Nodes, and what was placed on them."""

    def __init__(self, *nodes: Node) -> None:
        self.set = NodeSet()
        for each in nodes:
            self.set.put_node(each)
        self.placement = Placement(self.set, Random(1))
        self._made = 0

    def place(self, count: int = 1, now: float = 0.0, **demand: object) -> Outcome:
        asked = Demand(**{"service_id": "web", "version": 1} | demand)  # type: ignore[arg-type]
        ids = [f"t{self._made + number}" for number in range(count)]
        self._made += count
        return self.placement.place([Group(asked, ids)], now)

    def put(self, on: str, count: int = 1, service: str = "web", **demand: object) -> None:
        """Tasks that run there already."""
        for _ in range(count):
            self._made += 1
            asked = Demand(**{"service_id": service, "version": 1} | demand)  # type: ignore[arg-type]
            self.set.assume(f"t{self._made}", self.set.nodes[on], asked)

    def on(self, service: str = "web") -> Counter[str]:
        return Counter(self.set.by_service.get(service, {}))


# Filters.


def test_the_filters_are_swarms_in_its_order_with_affinity_before_volumes() -> None:
    assert [one.name for one in FILTERS] == [
        "ready", "resources", "constraints", "platform", "host ports", "max replicas", "affinity", "volumes"
    ]  # fmt: skip


def test_only_nodes_that_are_ready_and_active_are_used() -> None:
    down, paused, drained = node("down"), node("paused"), node("drained")
    down.status.state = NodeState.NODE_STATE_DOWN
    paused.spec.availability = NodeAvailability.NODE_AVAILABILITY_PAUSE
    drained.spec.availability = NodeAvailability.NODE_AVAILABILITY_DRAIN
    cluster = Cluster(down, paused, drained, node("good"))
    cluster.place(4)
    assert cluster.on() == {"good": 4}


def test_a_node_that_is_about_to_run_out_of_something_gets_no_new_tasks() -> None:
    full = node("full")
    full.description.pressures.append(NodePressure.NODE_PRESSURE_DISK)
    cluster = Cluster(full, node("good"))
    cluster.place(4)
    assert cluster.on() == {"good": 4}
    demand, info = Demand(service_id="web"), cluster.set.nodes["full"]
    assert [(one.name, one.reason(demand, info, cluster.set)) for one in refusals(demand, info, cluster.set)] == [
        ("ready", "it is about to run out of disk space")
    ]


def test_reservations_are_never_more_than_a_node_has() -> None:
    cluster = Cluster(node("a", cpus=2), node("b", cpus=1))
    outcome = cluster.place(4, cpu=10**9)
    assert cluster.on() == {"a": 2, "b": 1}
    assert [why for _, why in outcome.unplaced] == ["no suitable node (insufficient resources on 2 nodes)"]
    assert cluster.place(1, memory=17 * GIB).unplaced


def test_generic_resources_are_counted_or_named() -> None:
    counted, named = node("counted"), node("named")
    counted.description.resources.generic.add(kind="gpu", count=2)
    for name in ("g1", "g2", "g3"):
        named.description.resources.generic.add(kind="gpu", name=name)
    cluster = Cluster(counted, named)
    outcome = cluster.place(3, generic=(("gpu", 2),))
    assert cluster.on() == {"counted": 1, "named": 1}
    given_ = {info.id: [(each.name, each.count) for each in generic] for _, info, generic, _ in outcome.placed}
    assert given_ == {"counted": [("", 2)], "named": [("g1", 0), ("g2", 0)]}
    assert len(outcome.unplaced) == 1


def test_a_host_port_is_used_once_on_a_node() -> None:
    cluster = Cluster(node("a"), node("b"))
    outcome = cluster.place(3, ports=((0, 8080),))
    assert cluster.on() == {"a": 1, "b": 1}
    assert outcome.unplaced[0][1] == "no suitable node (host-mode port already in use on 2 nodes)"
    # Another protocol is another port.
    assert not cluster.place(2, service_id="dns", ports=((1, 8080),)).unplaced


def test_max_replicas_per_node() -> None:
    cluster = Cluster(node("a"), node("b"))
    outcome = cluster.place(5, max_replicas=2)
    assert cluster.on() == {"a": 2, "b": 2}
    assert outcome.unplaced[0][1] == "no suitable node (max replicas per node limit exceed)"


@pytest.mark.parametrize(
    ("platforms", "fits"),
    [
        ((), True), ((("linux", "amd64"),), True), ((("linux", "x86_64"),), True), ((("", ""),), True),
        ((("linux", "arm64"),), False), ((("windows", "amd64"),), False),
        ((("linux", "arm64"), ("linux", "amd64")), True),
    ],
)  # fmt: skip
def test_one_of_the_images_platforms_is_the_nodes(platforms: tuple[tuple[str, str], ...], fits: bool) -> None:
    assert bool(Cluster(node("a")).place(platforms=platforms).placed) == fits


def test_why_not_is_counted_by_the_first_filter_that_refuses_the_most_frequent_first() -> None:
    down = node("down")
    down.status.state = NodeState.NODE_STATE_DOWN
    cluster = Cluster(down, node("a", cpus=1), node("b", cpus=1), node("c", zone="east"))
    demand = Demand(service_id="web", cpu=2 * 10**9, constraints=("node.labels.zone==west",))
    assert explain(demand, cluster.set.nodes.values(), cluster.set) == (
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks; "
        "scheduling constraints not satisfied on 1 node)"
    )


def test_every_refusal_of_a_node_has_its_reason() -> None:
    cluster = Cluster(node("a", cpus=1, zone="east"))
    demand = Demand(service_id="web", cpu=2 * 10**9, constraints=("node.labels.zone==west", "node.role==worker"))
    info = cluster.set.nodes["a"]
    assert [(one.name, one.reason(demand, info, cluster.set)) for one in refusals(demand, info, cluster.set)] == [
        ("resources", "2 CPUs are asked for, 1 are free"), ("constraints", "node.labels.zone==west")
    ]  # fmt: skip


# Constraints.


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ("node.id==w1", True), ("node.id!=w1", False), ("node.hostname == w1", True), ("NODE.HOSTNAME==W1", True),
        ("node.role==worker", True), ("node.role!=manager", True), ("node.platform.os==linux", True),
        ("node.platform.arch==amd64", True), ("node.platform.arch==x86_64", True), ("node.platform.arch==arm64", False),
        ("node.ip==10.1.2.3", True), ("node.ip==10.1.0.0/16", True), ("node.ip!=10.1.0.0/16", False),
        ("node.ip==10.2.0.0/16", False), ("node.labels.zone==East", True), ("node.labels.zone==ea*", False),
        ("node.labels.none==x", False), ("node.labels.none!=x", True), ("engine.labels.kernel==6", True),
        ("node.nosuch==x", False), ("service.db==same-node", True),
    ],
)  # fmt: skip
def test_constraints(expression: str, fits: bool) -> None:
    one = node("w1", zone="east")
    one.role = NodeRole.NODE_ROLE_WORKER
    one.status.address = "10.1.2.3"
    one.description.engine.labels["kernel"] = "6"
    assert node_fits([expression], one) == fits


@pytest.mark.parametrize("expression", ["node.role=worker", "x", "==x", "node.role==", "service.db==near"])
def test_constraints_that_cannot_be_read(expression: str) -> None:
    with pytest.raises(ConstraintError, match="constraint"):
        parse(expression)


# Ranking.


def test_fewer_tasks_of_the_service_first_then_fewer_tasks_in_all() -> None:
    cluster = Cluster(node("a"), node("b"), node("c"))
    cluster.put("a", 1)
    cluster.put("b", 5, service="other")
    cluster.place(1)
    assert cluster.on() == {"a": 1, "c": 1}
    cluster.place(1)
    assert cluster.on() == {"a": 1, "b": 1, "c": 1}


def test_a_node_where_the_service_failed_five_times_in_five_minutes_goes_last() -> None:
    cluster = Cluster(node("bad"), node("good"))
    cluster.put("good", 10)
    for number in range(5):
        failed = Task(service_id="web", node_id="bad")
        failed.spec_version.index = 1
        failed.status.state = TaskState.TASK_STATE_FAILED
        failed.status.applied_at.seconds = 100 + number
        cluster.set.note_failure(failed)
    cluster.place(1, now=110)
    assert cluster.on() == {"good": 11}
    # Not for another version of it, and not for ever.
    cluster.place(1, now=110, version=2)
    cluster.place(1, now=105 + FAILURES_COUNT_FOR)
    assert cluster.on() == {"good": 11, "bad": 2}


# Spread preferences.


def test_tasks_are_dealt_evenly_over_the_branches_of_a_label_a_missing_one_is_a_branch() -> None:
    cluster = Cluster(node("e1", zone="east"), node("e2", zone="east"), node("e3", zone="east"),
                      node("w1", zone="west"), node("n1"))  # fmt: skip
    cluster.place(9, preferences=("node.labels.zone",))
    assert cluster.on() == {"e1": 1, "e2": 1, "e3": 1, "w1": 3, "n1": 3}


def test_levels_are_dealt_one_below_the_other() -> None:
    cluster = Cluster(node("a", zone="z1", rack="r1"), node("b", zone="z1", rack="r1"),
                      node("c", zone="z1", rack="r2"), node("d", zone="z2", rack="r3"))  # fmt: skip
    cluster.place(8, preferences=("node.labels.zone", "node.labels.rack"))
    assert cluster.on() == {"a": 1, "b": 1, "c": 2, "d": 4}


def test_what_is_there_counts_also_on_nodes_that_take_no_more_and_a_full_branch_passes_its_share_on() -> None:
    paused = node("e1", zone="east")
    paused.spec.availability = NodeAvailability.NODE_AVAILABILITY_PAUSE
    cluster = Cluster(paused, node("e2", zone="east", cpus=1), node("w1", zone="west"))
    cluster.put("e1", 2)
    cluster.place(2, preferences=("node.labels.zone",), cpu=10**9)
    assert cluster.on() == {"e1": 2, "w1": 2}
    cluster.place(4, preferences=("node.labels.zone",), cpu=10**9)
    assert cluster.on() == {"e1": 2, "e2": 1, "w1": 5}


# Beyond Swarm.


def test_binpack_fills_the_fullest_node_that_has_room_first() -> None:
    cluster = Cluster(node("a", cpus=4), node("b", cpus=4), node("c", cpus=4))
    cluster.put("b", 1, service="other", cpu=10**9)
    cluster.place(5, binpack=True, cpu=10**9)
    assert cluster.on()["b"] == 3
    assert sorted(cluster.on().values()) == [2, 3]


@pytest.mark.parametrize(
    ("spec", "packs"),
    [
        ("", False),
        ("resources { limits { nano_cpus: 1 } }", False),
        ("resources { reservations { nano_cpus: 1 } }", True),
        ("resources { reservations { memory_bytes: 1 } }", True),
        ("resources { reservations { generic { kind: 'gpu' count: 1 } } }", True),
        ("placement { max_replicas: 3 }", True),
    ],
)
def test_tasks_that_never_fill_a_node_are_spread_whatever_the_strategy(spec: str, packs: bool) -> None:
    task = text_format.Parse(f"spec {{ {spec} }}", Task())
    assert Demand.of(task, BINPACK).binpack == packs
    task.spec.placement.strategy = BINPACK
    assert Demand.of(task, SPREAD).binpack == packs
    task.spec.placement.strategy = SPREAD
    assert not Demand.of(task, BINPACK).binpack


def test_apart_and_near_are_looked_at_for_every_task_of_a_group() -> None:
    cluster = Cluster(node("a"), node("b"), node("c"))
    cluster.put("a", 1, service="db")
    cluster.place(4, apart=("db",))
    assert cluster.on() == {"b": 2, "c": 2}
    cluster.place(3, service_id="cache", near=("db",))
    assert cluster.on("cache") == {"a": 3}
    assert len(cluster.place(4, service_id="alone", apart=("alone",)).unplaced) == 1
    cluster.place(3, service_id="together", near=("together",))
    assert list(cluster.on("together").values()) == [3]


@given(
    cpus=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    zones=st.lists(st.sampled_from(["east", "west", ""]), min_size=8, max_size=8),
    groups=st.lists(
        st.tuples(st.integers(1, 12), st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 3)), max_size=6
    ),
)
def test_nothing_is_overcommitted_and_what_is_left_over_fits_nowhere(
    cpus: list[int], zones: list[str], groups: list[tuple[int, int, bool, bool, int]]
) -> None:
    nodes = [node(f"n{at}", cpus=many, zone=zone) for at, (many, zone) in enumerate(zip(cpus, zones, strict=False))]
    cluster = Cluster(*nodes)
    for number, (count, cpu, spread, binpack, most) in enumerate(groups):
        demand = Demand(
            service_id=f"s{number}", version=1, cpu=cpu * 10**9, max_replicas=most, binpack=binpack,
            preferences=("node.labels.zone",) if spread else (),
        )  # fmt: skip
        ids = [f"s{number}.{at}" for at in range(count)]
        outcome = cluster.placement.place([Group(demand, ids)], 0.0)
        assert len(outcome.placed) + len(outcome.unplaced) == count
        assert all(info.cpu >= 0 for info in cluster.set.nodes.values())
        if outcome.unplaced:
            assert all(refusals(demand, info, cluster.set) for info in cluster.set.nodes.values())
        counts = cluster.on(f"s{number}")
        if not spread and not binpack and not cpu and not most:
            assert max(counts.values()) - min(counts[each.id] for each in nodes) <= 1
