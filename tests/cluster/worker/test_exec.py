"""What people do with the running tasks of a real worker, asked for through a real leader: exec, attach, top, stats."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from flota.rpc.channels import local_channel, node_channel
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Service, Task
from flota.v1.tasks_pb2 import (
    AttachRequest,
    AttachStart,
    ExecExit,
    ExecRequest,
    ExecStart,
    SignalTaskRequest,
    StatsRequest,
    TerminalSize,
    TopRequest,
)
from flota.v1.tasks_pb2_grpc import TasksStub
from flota.v1.types_pb2 import ResourceRequirements, TaskState
from tests.cluster.worker.machine import PATIENCE, Cluster, Machine, alive, eventually, seconds
from tests.unit.dispatcher.swarm import MANAGER, WORKER, Swarm

pytestmark = pytest.mark.asyncio(loop_scope="module")
_KEPT = 1 << 20
RUNNING, FAILED = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_FAILED


class Said:
    """What a command said."""

    def __init__(self) -> None:
        self.pid = 0
        self.out = b""
        self.err = b""
        self.length = 0
        self.exit: ExecExit | None = None

    def take(self, answer: Any) -> None:
        part = answer.WhichOneof("part")
        if part == "started":
            self.pid = getattr(answer.started, "pid", 0)
        elif part == "stdout":
            self.length += len(answer.stdout)
            self.out = (self.out + answer.stdout)[:_KEPT]
        elif part == "stderr":
            self.err += answer.stderr
        else:
            self.exit = answer.exit


class Talk:
    """A conversation with a command, or with a task's own program."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.said = Said()

    async def say(self, request: Any) -> None:
        await self.call.write(request)

    async def until(self, condition: Callable[[Said], object]) -> Said:
        """Listen until it has said so much."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self.said):
                answer = await self.call.read()
                if answer is grpc.aio.EOF:
                    await self.call
                    raise AssertionError(f"it ended: {self.said.out!r} {self.said.err!r}")
                self.said.take(answer)
        return self.said


class Person:
    """Somebody on a manager, or on the node itself."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.node_id, self.role = "m9", MANAGER

    @asynccontextmanager
    async def tasks(self, *, here: bool = False) -> AsyncIterator[Any]:
        """The service, on a manager or on the node's own socket."""
        swarm = self._cluster.swarm
        where = f"unix://{self._cluster.machine.socket}"
        channel = local_channel(where) if here else node_channel(swarm.identity(self.node_id, self.role), swarm.address)
        async with channel:
            yield TasksStub(channel)

    @asynccontextmanager
    async def exec(self, start: ExecStart, *, here: bool = False) -> AsyncIterator[Talk]:
        async with self.tasks(here=here) as stub:
            call = stub.Exec()
            try:
                await call.write(ExecRequest(start=start))
                yield Talk(call)
            finally:
                call.cancel()

    async def run(
        self, task: str, *command: str, requests: Iterable[ExecRequest] = (), here: bool = False, **start: Any
    ) -> Said:
        async with self.exec(ExecStart(task=task, command=command, **start), here=here) as talk:
            for request in requests:
                await talk.say(request)
            return await talk.until(lambda said: said.exit is not None)

    async def refused(self, start: ExecStart, *, here: bool = False) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with self.exec(start, here=here) as talk:
                await talk.until(lambda said: said.exit is not None or said.pid)
        return caught.value.code(), caught.value.details() or ""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One machine for all tests of this file; the last one kills its worker."""
    directory = tmp_path_factory.mktemp("exec")
    machine = Machine(directory)
    try:
        swarm = Swarm(directory, period=5.0, host=machine.gateway)
        async with swarm.serving():
            await swarm.node("w1")
            cluster = Cluster(swarm, machine)
            try:
                await cluster.boot()
                yield cluster
            finally:
                await machine.end()
    finally:
        machine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def one(shared: Cluster) -> AsyncIterator[tuple[Cluster, Task]]:
    """A running task, web.1, of a service of its own."""
    service = Service(id="svc")
    service.spec.annotations.name = "web"
    await shared.swarm.create(service)
    task = shared.task(
        new_id(), "while true; do sleep 1000; done", env=["A=of the task"], dir="/tmp", stop_grace_period=seconds(0.1)
    )
    await shared.swarm.create(task)
    await shared.until(task, RUNNING)
    try:
        yield shared, task
    finally:
        known = list(shared.swarm.store.tasks)
        for left in known:
            await shared.swarm.remove(left.id)
        await shared.swarm.remove("svc", "services")
        if shared.machine.runs:
            await eventually(lambda: not any(map(shared.has_container, known)))


async def test_output_input_exit_code_and_environment(one: tuple[Cluster, Task]) -> None:
    cluster, task = one
    person = Person(cluster)
    for name in (task.id, task.id[:9], "web", "web.1", f"web.1.{task.id}"):
        for here in (False, True):
            said = await person.run(name, "sh", "-c", "echo out; echo err >&2; exit 7", here=here)
            assert (said.out, said.err, said.exit and said.exit.code) == (b"out\n", b"err\n", 7), name
    data = bytes(range(256)) * 2000
    pieces = [ExecRequest(stdin=data[place : place + 30000]) for place in range(0, len(data), 30000)]
    said = await person.run("web", "cat", requests=[*pieces, ExecRequest(close_stdin=True)], stdin=True)
    assert said.out == data
    said = await person.run("web", "sh", "-c", "id; pwd; echo $A $B $HOME", user="1000:2000", dir="/etc", env=["B=b"])
    assert said.out.decode().splitlines() == ["uid=1000 gid=2000", "/etc", "of the task b /"]
    assert (await person.run("web", "pwd")).out == b"/tmp\n"
    assert (await person.run("web", "sh", "-c", "kill -9 $$")).exit == ExecExit(code=137)
    # Without input it reads the end at once.
    assert (await person.run("web", "cat")).exit == ExecExit(code=0)


async def test_a_terminal(one: tuple[Cluster, Task]) -> None:
    cluster, _ = one
    start = ExecStart(task="web", command=["sh"], tty=True, stdin=True, size=TerminalSize(rows=33, columns=101))
    async with Person(cluster).exec(start) as talk:
        await talk.say(ExecRequest(stdin=b"stty size; tty; echo $TERM\n"))
        await talk.until(lambda said: b"33 101\r\n/dev/pts/0\r\nxterm\r\n" in said.out)
        await talk.say(ExecRequest(resize=TerminalSize(rows=44, columns=120)))
        await talk.say(
            ExecRequest(stdin=b"while [ \"$(stty size)\" != '44 120' ]; do sleep 0.01; done; echo resi''zed\n")
        )
        await talk.until(lambda said: b"resized" in said.out)
        # ^C ends what runs in it, not the shell.
        # What runs says so itself: until then the shell may not have made way for it.
        await talk.say(ExecRequest(stdin=b"sh -c \"echo go''es; exec sleep 1000\"\n"))
        await talk.until(lambda said: b"goes" in said.out)
        await talk.say(ExecRequest(stdin=b"\x03"))
        await talk.until(lambda said: b"# " in said.out.partition(b"^C")[2])
        await talk.say(ExecRequest(stdin=b"exit 5\n"))
        said = await talk.until(lambda said: said.exit is not None)
    assert said.exit == ExecExit(code=5)


async def test_a_signal_reaches_the_command(one: tuple[Cluster, Task]) -> None:
    cluster, _ = one
    line = "trap 'echo heard; exit 3' USR1; echo ready; while true; do sleep 0.01; done"
    async with Person(cluster).exec(ExecStart(task="web", command=["sh", "-c", line])) as talk:
        await talk.until(lambda said: b"ready" in said.out)
        await talk.say(ExecRequest(signal="USR1"))
        said = await talk.until(lambda said: said.exit is not None)
    assert (said.out, said.exit) == (b"ready\nheard\n", ExecExit(code=3))


@pytest.mark.parametrize("tty", [False, True])
async def test_who_goes_ends_the_command_and_who_detaches_does_not(one: tuple[Cluster, Task], tty: bool) -> None:
    cluster, task = one
    person = Person(cluster)
    start = ExecStart(task="web", command=["sh", "-c", "while true; do echo x; sleep 0.01; done"], tty=tty, stdin=True)
    before = cluster.machine.processes()
    async with person.exec(start) as talk:
        gone = (await talk.until(lambda said: said.pid and said.out)).pid
    await eventually(lambda: not alive(gone))
    async with person.exec(start) as talk:
        left = (await talk.until(lambda said: said.pid and said.out)).pid
        await talk.say(ExecRequest(detach=True))
        async with asyncio.timeout(PATIENCE):
            while (answer := await talk.call.read()) is not grpc.aio.EOF:
                talk.said.take(answer)
        assert talk.said.exit is None
    assert alive(left)
    detached = ExecStart(task="web", command=["sh", "-c", "sleep 1000"], tty=tty, detach=True)
    async with person.exec(detached) as talk:
        alone = (await talk.until(lambda said: said.pid)).pid
    assert alive(alone)
    # They end with their container, and nothing of them stays.
    await cluster.want(task, TaskState.TASK_STATE_REMOVE)
    await eventually(lambda: not alive(left) and not alive(alone))
    await eventually(lambda: not cluster.machine.processes() - before)
    await eventually(lambda: not cluster.has_container(task))


async def test_what_cannot_be_run(one: tuple[Cluster, Task]) -> None:
    cluster, task = one
    person = Person(cluster)
    said = await person.run("web", "nosuch")
    assert said.exit is not None
    assert said.exit.code == 127
    assert "nosuch" in said.exit.error
    said = await person.run("web", "/etc/hostname")
    assert said.exit is not None
    assert said.exit.code == 126
    said = await person.run("web", "true", dir="/nowhere")
    assert said.exit is not None
    assert "/nowhere" in said.exit.error
    refusals = [
        (ExecStart(task="web"), "INVALID_ARGUMENT", "no command: say what to run in the container"),
        (ExecStart(task="", command=["true"]), "INVALID_ARGUMENT", "no task is named"),
        (ExecStart(task="web", command=["true"], user="nobodyy"), "INVALID_ARGUMENT", "user 'nobodyy' is not in"),
        (ExecStart(task="web", command=["true"], dir="tmp"), "INVALID_ARGUMENT", "invalid workdir 'tmp': an absolute"),
        (ExecStart(task="web", command=["true"], env=["A"]), "INVALID_ARGUMENT", "invalid env 'A': KEY=VALUE"),
        (ExecStart(task="nope", command=["true"]), "NOT_FOUND", "no such task or service: nope"),
        (ExecStart(task="web.7", command=["true"]), "NOT_FOUND", "service web has no task 7"),
    ]
    for start, code, words in refusals:
        found, details = await person.refused(start)
        assert (found.name, words in details) == (code, True), details
    bundle = f"/proc/{cluster.machine.pid}/root{cluster.machine.run_directory}/tasks/{task.id}"
    assert not [name for name in os.listdir(bundle) if name.startswith("exec-")]


async def test_a_task_that_has_ended_is_refused_with_its_state(one: tuple[Cluster, Task]) -> None:
    cluster, task = one
    async with Person(cluster).tasks() as stub:
        await stub.SignalTask(SignalTaskRequest(task="web", signal="KILL"))
    await cluster.until(task, FAILED)
    code, details = await Person(cluster).refused(ExecStart(task=task.id, command=["true"]))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "is not running: it is failed, task: non-zero exit (137): SIGKILL" in details
    code, details = await Person(cluster).refused(ExecStart(task="web", command=["true"]), here=True)
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "task web is not running: it is failed")


async def test_workers_may_not(one: tuple[Cluster, Task]) -> None:
    """Who took over a worker has that worker's tasks, and no others."""
    cluster, _ = one
    person = Person(cluster)
    person.node_id, person.role = "w7", WORKER
    code, _ = await person.refused(ExecStart(task="web", command=["true"]))
    assert code == grpc.StatusCode.PERMISSION_DENIED


async def test_attach_and_top(one: tuple[Cluster, Task]) -> None:
    cluster, other = one
    person = Person(cluster)
    line = "while read word; do echo got $word; echo err $word >&2; [ $word = end ] && exit 4; done"
    task = cluster.task(new_id(), line, open_stdin=True)
    await cluster.swarm.create(task)
    await cluster.until(task, RUNNING)
    async with person.tasks() as stub:
        top = await stub.Top(TopRequest(task=task.id))
        commands = [process.values[list(top.titles).index("CMD")] for process in top.processes]
        assert any("while read word" in command for command in commands), top
        top = await stub.Top(TopRequest(task=task.id, ps_arguments=["-eo", "pid,comm"]))
        assert [process.values[1] for process in top.processes] == ["sh"]
        with pytest.raises(grpc.aio.AioRpcError, match="shows no PID"):
            await stub.Top(TopRequest(task=task.id, ps_arguments=["-eo", "comm"]))
        call = stub.Attach()
        await call.write(AttachRequest(start=AttachStart(task=task.id, stdin=True)))
        talk = Talk(call)
        await talk.say(AttachRequest(stdin=b"one\n"))
        await talk.until(lambda said: said.out == b"got one\n" and said.err == b"err one\n")
        await talk.say(AttachRequest(stdin=b"end\n"))
        said = await talk.until(lambda said: said.exit is not None)
        assert said.exit is not None
        assert said.exit.code == 4
        call = stub.Attach()
        await call.write(AttachRequest(start=AttachStart(task=other.id, stdin=True)))
        with pytest.raises(grpc.aio.AioRpcError, match="has no input"):
            await Talk(call).until(lambda said: said.exit is not None)


async def test_stats(one: tuple[Cluster, Task]) -> None:
    cluster, other = one
    person = Person(cluster)
    task = cluster.task(new_id(), "echo ready; while true; do :; done", stop_grace_period=seconds(0.1))
    task.spec.resources.CopyFrom(ResourceRequirements(pids_limit=50))
    task.spec.resources.limits.memory_bytes = 64 << 20
    await cluster.swarm.create(task)
    await cluster.until(task, RUNNING)
    async with person.tasks() as stub:
        request = StatsRequest(tasks=[task.id], stream=True)
        request.interval.FromMilliseconds(100)
        call = stub.Stats(request)
        rounds: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            async for answer in call:
                assert not answer.warnings
                assert [figures.task_id for figures in answer.tasks] == [task.id]
                rounds.append(answer.tasks[0])
                if len(rounds) > 2 and rounds[-1].cpu.total > rounds[0].cpu.total:
                    break
        call.cancel()
        last = rounds[-1]
        assert last.cpu.machine > rounds[0].cpu.machine
        assert last.node_id == "w1"
        assert last.name == f"web.1.{task.id}"
        assert last.memory.limit == 64 << 20
        assert 0 < last.memory.used <= last.memory.usage < last.memory.limit
        assert (last.pids, last.pids_limit) == (1, 50)
        both = [answer async for answer in stub.Stats(StatsRequest())]
        assert {figures.task_id for answer in both for figures in answer.tasks} == {task.id, other.id}


async def test_a_reader_who_does_not_read_makes_the_command_wait(one: tuple[Cluster, Task]) -> None:
    cluster, _ = one
    start = ExecStart(task="web", command=["sh", "-c", "head -c 40000000 /dev/zero; echo done >/tmp/done"])
    async with Person(cluster).exec(start) as talk:
        await talk.until(lambda said: said.out)
        said = await Person(cluster).run("web", "sh", "-c", "test -e /tmp/done; echo $?")
        assert said.out == b"1\n"
        await talk.until(lambda said: said.length == 40_000_000)


async def test_a_node_that_is_gone_is_named(one: tuple[Cluster, Task]) -> None:
    cluster, _ = one
    person = Person(cluster)
    async with person.exec(ExecStart(task="web", command=["sleep", "1000"])) as talk:
        await talk.until(lambda said: said.pid)
        await cluster.machine.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await talk.until(lambda said: said.exit is not None)
    assert "the connection to node machine-one broke" in (caught.value.details() or "")
