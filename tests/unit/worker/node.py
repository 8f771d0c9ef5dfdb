"""A node without a kernel for task controllers: every part does what it is told, notes it, and can be made to fail."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from flota.overlay import Sandbox
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import short_name
from flota.v1.types_pb2 import Platform, PortConfig, TaskState
from flota.worker.images.config import ImageConfig
from flota.worker.images.errors import ImageNotFound
from flota.worker.runtime.container import Container, ContainerError, ContainerState, Exit, Phase, Running
from flota.worker.runtime.processes import Completed
from flota.worker.tasks.controller import Controller
from flota.worker.tasks.parts import Parts
from flota.worker.tasks.payloads import Payloads
from flota.worker.tasks.template import NodeFacts
from tests.simulation.virtual_time import run

READY, RUNNING, SHUTDOWN = (
    TaskState.TASK_STATE_READY, TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SHUTDOWN,
)  # fmt: skip
REMOVE = TaskState.TASK_STATE_REMOVE


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test runs on virtual time."""

    @wraps(test)
    def on_virtual_time(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return on_virtual_time


@dataclass(frozen=True)
class FakeImage:
    id: str
    config: ImageConfig
    layers: tuple[str, ...] = ("base",)


@dataclass
class Node:
    """Images, containers and networks in one. Times in seconds of the (virtual) loop."""

    image: ImageConfig = field(default_factory=ImageConfig)
    # What happened, in order.
    notes: list[str] = field(default_factory=list)
    # Raised by the named call, one after the other.
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    # How long the named call takes.
    delays: dict[str, float] = field(default_factory=dict)
    # Signals that make a container end, and how long it takes then.
    obeys: dict[int, float] = field(default_factory=lambda: {signal.SIGTERM: 0.1})
    health: Callable[[], Completed] = lambda: Completed(0, "")
    ports: tuple[PortConfig, ...] = ()
    created: list[Container] = field(default_factory=list)
    exits: dict[str, "asyncio.Future[Exit]"] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    attached: set[str] = field(default_factory=set)
    # Whether its containers may live again: those without a service.
    again: bool = False

    def parts(self) -> Parts:
        facts = NodeFacts("n1", "host-one", Platform(os="linux", architecture="x86_64"))
        return Parts(self, self, self, Payloads(), facts, again=self.again)

    async def _do(self, call: str, note: str = "") -> None:
        await asyncio.sleep(self.delays.get(call, 0))
        if self.failures.get(call):
            raise self.failures[call].pop(0)
        self.notes.append(note or call)

    # Images.

    async def provide(self, reference: str, credentials: Callable[[], Awaitable[str]] = ...) -> FakeImage:  # type: ignore[assignment]
        await self._do("find")
        if reference != "busybox":
            raise ImageNotFound(f"no such image: {reference}")
        return FakeImage("sha256:1", self.image)

    def hold(self, user: str, image_id: str) -> None:
        self.held[user] = image_id

    def release(self, user: str) -> None:
        self.held.pop(user, None)

    # Networks.

    async def attach(self, task: Task) -> Sandbox:
        await self._do("attach")
        self.attached.add(task.id)
        return Sandbox(Path("/netns"), "", (), self.ports)

    async def close(self, task_id: str) -> None:
        """Nothing to close."""

    async def detach(self, task_id: str) -> None:
        await self._do("detach")
        self.attached.discard(task_id)

    # Containers.

    def take(self, container_id: str) -> None:
        """A container that an earlier worker made."""
        self.exits[container_id] = asyncio.get_running_loop().create_future()

    def expect(self) -> None:
        """Nothing to get ready here."""

    async def create(self, container: Container) -> None:
        await self._do("create")
        self.created.append(container)
        self.take(container.id)

    async def launch(self, container_id: str) -> Running:
        await self._do("launch")
        return Running(4711, container_id)

    async def wait(self, container_id: str) -> Exit:
        if container_id not in self.exits:
            raise ContainerError(f"there is no container {container_id}")
        return await asyncio.shield(self.exits[container_id])

    async def signal(self, container_id: str, number: int) -> None:
        self.notes.append(signal.Signals(number).name)
        if number == signal.SIGKILL:
            self.end(container_id, 137)
        elif number in self.obeys:
            asyncio.get_running_loop().call_later(self.obeys[number], self.end, container_id, 0)

    def end(self, container_id: str, code: int) -> None:
        """The program ends."""
        future = self.exits.get(container_id)
        if future is not None and not future.done():
            future.set_result(Exit(code))

    async def execute(self, container_id: str, argv: Sequence[str], *, limit: float) -> Completed:
        if self.delays.get("execute", 0) > limit:
            await asyncio.sleep(limit)
            raise TimeoutError
        await self._do("execute", f"execute {' '.join(argv)}")
        return self.health()

    async def remove(self, container_id: str, *, keep_log: bool = False, keep_files: bool = False) -> None:
        await self._do("remove", "remove but log" if keep_log else "remove")
        self.end(container_id, 137)
        self.exits.pop(container_id, None)


def task(**spec: object) -> Task:
    made = Task(id="t1".ljust(25, "0"), service_id="s1", node_id="n1", slot=3, desired_state=RUNNING)
    made.service_annotations.name = "web"
    made.spec.container.image = "busybox"
    for name, value in spec.items():
        setattr(made.spec.container, name, value)
    made.status.state = TaskState.TASK_STATE_ASSIGNED
    return made


class Life:
    """A controller that lives, and what was observed of it: (time, state, error)."""

    def __init__(self, node: Node, task: Task, **former: object) -> None:
        self.seen: list[tuple[float, str, str]] = []
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.controller = Controller(task, node.parts(), self._observe, **former)  # type: ignore[arg-type]
        self.running = asyncio.create_task(self.controller.run())

    def _observe(self, controller: Controller) -> None:
        status = controller.status
        self.seen.append((round(self._loop.time(), 3), short_name(status.state), status.error))
        self._news.set()

    @property
    def states(self) -> list[str]:
        return [state for _, state, _ in self.seen]

    async def until(self, state: str) -> tuple[float, str, str]:
        """Wait until it is in `state`; what was observed then."""
        while not self.seen or self.seen[-1][1] != state:
            self._news.clear()
            await self._news.wait()
        return self.seen[-1]

    def want(self, state: "TaskState.ValueType") -> None:
        """Change what is wanted."""
        changed = Task()
        changed.CopyFrom(self.controller.task)
        changed.desired_state = state
        self.controller.assign(changed)

    async def gone(self) -> None:
        """The managers forget the task; wait until nothing of it is left."""
        self.controller.remove()
        await self.running


def found(phase: Phase, code: int | None = None) -> ContainerState:
    if phase == Phase.ENDED:
        return ContainerState(phase, exit=Exit(code))
    return ContainerState(phase, pid=4711)
