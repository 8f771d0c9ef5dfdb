"""Figures of tasks from every node that has some, as they come; nodes that join meanwhile are asked too.

A node that cannot be asked is named in a warning, once until it can, and asked again while the caller stays.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress

from flota.manager.nodecalls.calls import NodeCalls
from flota.manager.store import Store, WatchClosed
from flota.rpc.errors import FlotaError
from flota.rpc.pipe import Pipe
from flota.v1.objects_pb2 import Task
from flota.v1.tasks_pb2 import StatsRequest, StatsResponse
from flota.v1.types_pb2 import NodeState

# Seconds between looks for nodes that can be asked (again).
_PAUSE = 1.0


class Rounds:
    """One caller's. `tasks`: only these; empty = all."""

    def __init__(
        self, store: Store, nodes: NodeCalls, method: str, request: StatsRequest, tasks: Sequence[Task]
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._method = method
        self._request = request
        self._wanted: dict[str, list[str]] = {}
        for task in tasks:
            self._wanted.setdefault(task.node_id, []).append(task.id)
        self._every = not tasks
        self._out: Pipe[StatsResponse] = Pipe()
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._warned: set[str] = set()

    async def all(self) -> AsyncGenerator[StatsResponse, None]:
        """Until each node has answered, or with `stream` until the caller goes."""
        asking = asyncio.create_task(self._ask_all(), name="stats")
        asking.add_done_callback(lambda _: self._out.end())
        try:
            async for answer in self._out:
                yield answer
        finally:
            self._out.close()
            running = [asking, *self._asked.values()]
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _ask_all(self) -> None:
        for node_id in self._node_ids():
            self._ask(node_id)
        if not self._request.stream:
            await asyncio.gather(*self._asked.values())
            return
        while True:
            with self._store.watch("node") as changes, suppress(WatchClosed, TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await changes.next()
            for node_id in self._node_ids():
                if node_id not in self._asked or (self._asked[node_id].done() and self._nodes.listens(node_id)):
                    self._ask(node_id)
            if not self._every and not self._any_left():
                return

    def _node_ids(self) -> Iterable[str]:
        if not self._every:
            return list(self._wanted)
        return [node.id for node in self._store.nodes if node.status.state != NodeState.NODE_STATE_DOWN]

    def _any_left(self) -> bool:
        """Whether a task that was asked for is still there."""
        return any(self._store.tasks.get(id) is not None for ids in self._wanted.values() for id in ids)

    def _ask(self, node_id: str) -> None:
        self._asked[node_id] = asyncio.create_task(self._one(node_id), name=f"stats of {node_id}")

    async def _one(self, node_id: str) -> None:
        request = StatsRequest(tasks=self._wanted.get(node_id, ()), stream=self._request.stream)
        if self._request.HasField("interval"):
            request.interval.CopyFrom(self._request.interval)
        try:
            async with aclosing(self._nodes.call(node_id, self._method, _only(request))) as answers:
                async for answer in answers:
                    self._warned.discard(node_id)
                    response = StatsResponse.FromString(answer)
                    response.node_id = node_id
                    for one in response.tasks:
                        one.node_id = node_id
                    if not await self._out.put(response):
                        return
        except FlotaError as error:
            if node_id not in self._warned:
                self._warned.add(node_id)
                await self._out.put(StatsResponse(node_id=node_id, warnings=[f"figures are missing: {error}"]))


async def _only(request: StatsRequest) -> AsyncIterator[bytes]:
    yield request.SerializeToString()
