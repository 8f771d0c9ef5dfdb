"""Options of `service create` that touch a container, one by one, on containers of a real worker.

What concerns files, mounts, capabilities and control groups alone is in tests/cluster/runtime/test_inside.py.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Network, Secret, Task
from flota.v1.specs_pb2 import ContainerSpec
from flota.v1.types_pb2 import (
    Device,
    DnsConfig,
    Driver,
    FileTarget,
    GenericResource,
    IpamConfig,
    Mount,
    NetworkAttachment,
    TaskState,
    Ulimit,
)
from tests.cluster.worker.leaks import cluster_is_empty, left
from tests.cluster.worker.machine import CGROUPS, Cluster, Machine, eventually
from tests.unit.dispatcher.swarm import Swarm

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUNNING, COMPLETE = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_COMPLETE
FAILED, REJECTED = TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One machine for all tests of this file."""
    directory = tmp_path_factory.mktemp("options")
    machine = Machine(directory)
    try:
        swarm = Swarm(directory, period=5.0, host=machine.gateway)
        async with swarm.serving():
            await swarm.node("w1")
            made = Cluster(swarm, machine)
            try:
                await made.boot()
                yield made
            finally:
                await machine.end()
    finally:
        machine.close()


async def said(cluster: Cluster, task: Task) -> list[str]:
    """Run it to its end; what it said."""
    await cluster.swarm.create(task)
    status = await cluster.until(task, COMPLETE, FAILED, REJECTED)
    assert status.state == COMPLETE, status
    return cluster.output(task)


SPECS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("echo $0 $@", {"command": ["sh", "-c", "echo $0 $1 $2"], "args": ["a", "b c", "d"]}, ["a b c d"]),
    ("hostname; cat /etc/hostname", {"hostname": "box-{{.Task.Slot}}"}, ["box-1", "box-1"]),
    ("grep -c 10.9.8.7 /etc/hosts; grep db /etc/hosts", {"hosts": ["10.9.8.7 db data"]}, ["1", "10.9.8.7 db data"]),
    (
        "grep -v ^nameserver /etc/resolv.conf",
        {"dns": DnsConfig(nameservers=["192.0.2.53"], search=["example.org"], options=["ndots:3"])},
        ["search example.org", "options ndots:3"],
    ),
    ("cat /proc/self/oom_score_adj", {"oom_score_adj": 321}, ["321"]),
    ("ulimit -n; ulimit -Hn", {"ulimits": [Ulimit(name="nofile", soft=100, hard=200)]}, ["100", "200"]),
    ("cat /proc/sys/net/ipv4/ip_default_ttl", {"sysctls": {"net.ipv4.ip_default_ttl": "44"}}, ["44"]),
    ("touch /x 2>/dev/null || echo refused", {"read_only": True}, ["refused"]),
    ("id -u; id -g; id -G", {"user": "7:8", "groups": ["9"]}, ["7", "8", "8 9"]),
    ("pwd; echo $A", {"dir": "/some/where", "env": ["A={{.Node.Hostname}}"]}, ["/some/where", "machine-one"]),
    ("readlink /proc/1/exe; true", {"init": True}, ["/dev/init"]),
    ("test -t 1 && echo terminal", {"tty": True}, ["terminal"]),
    ("grep CapEff /proc/self/status", {"capability_drop": ["ALL"]}, ["CapEff:\t0000000000000000"]),
    (
        "grep CapEff /proc/self/status",
        {"capability_drop": ["ALL"], "capability_add": ["CAP_CHOWN"]},
        ["CapEff:\t0000000000000001"],
    ),
]


@pytest.mark.parametrize(("line", "spec", "expected"), SPECS, ids=[",".join(spec) for _, spec, _ in SPECS])
async def test_it_reaches_the_container(cluster: Cluster, line: str, spec: dict[str, Any], expected: list[str]) -> None:
    task = cluster.task(new_id(), "sh", "-c", line)
    task.spec.container.MergeFrom(ContainerSpec(**{key: value for key, value in spec.items() if key != "command"}))
    if "command" in spec:
        task.spec.container.command[:] = spec["command"]
    assert await said(cluster, task) == expected


async def test_devices(cluster: Cluster, tmp_path: Path) -> None:
    """They are there, with the node's owner and mode, and may be used as far as was asked for."""
    os.mknod(tmp_path / "zero", 0o20640, os.makedev(1, 5))
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    os.chown(tmp_path / "zero", 0, 20)
    (tmp_path / "file").touch()
    task = cluster.task(new_id(), "head -c 3 /dev/nought | wc -c; stat -c %a:%g /dev/nought; ls /dev/many")
    task.spec.container.devices.extend(
        [
            Device(source=str(tmp_path / "zero"), target="/dev/nought", permissions="r"),
            Device(source=str(tmp_path), target="/dev/many"),
        ]
    )
    lines = await said(cluster, task)
    assert lines[:2] == ["3", "640:20"]
    assert {"zero", "null"} <= set(lines)
    assert "file" not in lines
    # The directory's rule lets zero be written to as well: rules add up, as Docker's do.
    for source, words in (
        (str(tmp_path / "nope"), "nope is not on this node"),
        (str(tmp_path / "file"), "file is no device on this node: for files and directories use a bind mount"),
    ):
        task = cluster.task(new_id(), "true")
        task.spec.container.devices.add(source=source)
        await cluster.swarm.create(task)
        status = await cluster.until(task, REJECTED, COMPLETE)
        assert words in status.error


async def test_generic_resources_are_named(cluster: Cluster) -> None:
    task = cluster.task(new_id(), "echo $DOCKER_RESOURCE_GPU $DOCKER_RESOURCE_SLOT")
    task.assigned_generic.extend(
        [
            GenericResource(kind="gpu", name="UUID1"),
            GenericResource(kind="gpu", name="UUID2"),
            GenericResource(kind="slot", count=3),
        ]
    )
    assert await said(cluster, task) == ["UUID1,UUID2 3"]


async def test_limits(cluster: Cluster) -> None:
    task = cluster.task(new_id(), "sleep", "1000")
    task.spec.container.stop_grace_period.FromMilliseconds(100)
    resources = task.spec.resources
    resources.limits.memory_bytes, resources.limits.nano_cpus = 32 << 20, 250_000_000
    resources.memory_swap_bytes, resources.memory_swappiness, resources.pids_limit = 48 << 20, 13, 9
    await cluster.swarm.create(task)
    await cluster.until(task, RUNNING)

    def value(controller: str, name: str) -> str:
        return (CGROUPS / controller / cluster.machine.name / task.id / name).read_text().strip()

    if (CGROUPS / "cgroup.controllers").exists():
        assert value("", "memory.max") == str(32 << 20)
        assert value("", "memory.swap.max") == str(16 << 20)
        assert value("", "pids.max") == "9"
        assert value("", "cpu.max") == "25000 100000"
        return
    assert value("memory", "memory.limit_in_bytes") == str(32 << 20)
    assert value("memory", "memory.memsw.limit_in_bytes") == str(48 << 20)
    assert value("memory", "memory.swappiness") == "13"
    assert value("pids", "pids.max") == "9"
    assert value("cpu", "cpu.cfs_quota_us") == "25000"


@pytest.mark.parametrize(
    ("line", "code", "error", "oom_killed"),
    [
        ("exit 3", 3, "task: non-zero exit (3)", False),
        ("kill -TERM $$; sleep 10", 143, "task: non-zero exit (143): SIGTERM", False),
        ("kill -KILL $$; sleep 10", 137, "task: non-zero exit (137): SIGKILL", False),
        ("x=x; while true; do x=$x$x; done", 137, "task: non-zero exit (137): out of memory", True),
    ],
    ids=["code", "signal", "kill", "memory"],
)
async def test_ends_are_told_with_dockers_code_and_their_cause(
    cluster: Cluster, line: str, code: int, error: str, oom_killed: bool
) -> None:
    task = cluster.task(new_id(), "sh", "-c", line, init=code != 3 and not oom_killed)
    task.spec.resources.limits.memory_bytes = 16 << 20
    await cluster.swarm.create(task)
    status = await cluster.until(task, FAILED, COMPLETE)
    assert (status.state, status.container.exit_code, status.error) == (FAILED, code, error)
    assert status.container.oom_killed == oom_killed


async def test_a_memory_limit_that_is_too_low_is_refused(cluster: Cluster) -> None:
    task = cluster.task(new_id(), "true")
    task.spec.resources.limits.memory_bytes = 1 << 20
    await cluster.swarm.create(task)
    status = await cluster.until(task, REJECTED, COMPLETE)
    assert "invalid memory limit 1048576: at least 4194304 bytes (4 MiB)" in status.error


async def test_without_a_log(cluster: Cluster) -> None:
    task = cluster.task(new_id(), "echo hello")
    task.log_driver.CopyFrom(Driver(name="none"))
    assert await said(cluster, task) == []
    assert not cluster.log_file(task).exists()


async def test_faults_of_a_program_stay_within_its_container(cluster: Cluster, tmp_path: Path) -> None:
    """A fork bomb within its limit, and a log that is flooded, beside a task that goes on."""
    calm = cluster.task(new_id(), "while true; do echo tick; sleep 0.05; done")
    bomb = cluster.task(new_id(), "b() { b | b & }; b; sleep 1000")
    bomb.spec.resources.pids_limit = 30
    flood = cluster.task(new_id(), "yes 0123456789012345678901234567890123456789")
    flood.log_driver.CopyFrom(Driver(name="json-file", options={"max-size": "1m"}))
    await cluster.swarm.create(calm, bomb, flood)
    for task in (calm, flood):
        await cluster.until(task, RUNNING)
    await cluster.until(bomb, RUNNING, FAILED)
    written = 0
    largest = 0

    def flooded() -> bool:
        nonlocal written, largest
        io = Path(f"/proc/{monitor_of(flood)}/io").read_text()
        written = int(next(line for line in io.splitlines() if line.startswith("wchar")).split()[1])
        largest = max(largest, cluster.log_file(flood).stat().st_size)
        return written > 50 << 20

    def monitor_of(task: Task) -> int:
        return int(Path(f"/proc/{cluster.status(task).container.pid}/stat").read_text().rpartition(")")[2].split()[1])

    await eventually(flooded)
    assert largest < 2 << 20
    before = len(cluster.output(calm))
    await eventually(lambda: len(cluster.output(calm)) > before)
    for task in (calm, bomb, flood):
        await cluster.swarm.change(task.id, lambda one: one.spec.container.stop_grace_period.FromMilliseconds(100))
        await cluster.want(task, TaskState.TASK_STATE_REMOVE)
    for task in (calm, bomb, flood):
        await eventually(lambda task=task: not cluster.has_container(task))  # type: ignore[misc]


@pytest.mark.parametrize(
    "cycles", [30, pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])], ids=["30", "500"]
)
async def test_nothing_is_left_of_tasks_that_come_and_go(cluster: Cluster, cycles: int) -> None:
    """Mounts, namespaces, interfaces, rules, control groups, processes, files, what the worker has open: as before."""
    await cluster_is_empty(cluster)
    network = Network(id="n1".ljust(25, "0"), vni=4096, ipam=[IpamConfig(subnet="10.77.0.0/24", gateway="10.77.0.1")])
    secret = Secret(id="s1")
    secret.spec.annotations.name, secret.spec.data = "password", b"hidden"
    await cluster.swarm.create(network, secret)
    before: dict[str, object] = {}
    # The first ten make the worker's threads, and whatever else stays for the next ones.
    for begin in range(0, cycles + 10, 10):
        tasks = [cluster.task(new_id(), "echo hello > /file; exec sleep 1000", init=True) for _ in range(10)]
        for number, task in enumerate(tasks, 5):
            container = task.spec.container
            container.mounts.add(type=Mount.TYPE_TMPFS, target="/t")
            container.mounts.add(type=Mount.TYPE_VOLUME, source="kept", target="/kept")
            container.mounts.add(type=Mount.TYPE_VOLUME, target="/nameless")
            container.secrets.add(secret_id="s1", secret_name="password", file=FileTarget(name="password"))
            container.stop_grace_period.FromMilliseconds(100)
            task.networks.append(NetworkAttachment(network_id=network.id, addresses=[f"10.77.0.{number}/24"]))
        await cluster.swarm.create(*tasks)
        for task in tasks:
            await cluster.until(task, RUNNING)
        for number, task in enumerate(tasks, begin):
            if number % 2:
                await cluster.want(task, TaskState.TASK_STATE_REMOVE)
            await cluster.swarm.remove(task.id)
        await cluster_is_empty(cluster)
        before = before or left(cluster)
    try:
        await eventually(lambda: left(cluster) == before)
    except TimeoutError:
        assert left(cluster) == before
    await cluster.swarm.remove(secret.id, "secrets")
    await cluster.swarm.remove(network.id, "networks")
