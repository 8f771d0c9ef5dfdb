"""Calls of the leader into its nodes, over streams that the nodes open: workers listen on no port.

    caller ──► call(node, method, requests) ──► ListenCalls: "answer call 7, /flota.v1.Tasks/Exec" ──► node
           ◄──────────────────────────────────── Answer: responses ◄──── requests ──────────────────► node

Each call has two pipes of bounded size, so a side that does not read makes the other one wait. The node decides by the
contract whether managers may call a method there (worker/calls); it answers for itself only, which the certificate on
its stream proves.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from google.protobuf.message import Message

from flota.manager.store import Store
from flota.rpc.callers import current_caller
from flota.rpc.errors import FailedPrecondition, Internal, NotFound, PermissionDenied, Unavailable, error_of
from flota.rpc.pipe import Pipe
from flota.v1 import tasks_pb2_grpc
from flota.v1.ids import new_id
from flota.v1.tasks_pb2 import AnswerMessage, ListenCallsRequest, NodeCall, QuestionMessage
from flota.v1.types_pb2 import NodeState

M = TypeVar("M", bound=Message)
# Seconds until a node has to have begun its answer.
ANSWER_LIMIT = 5.0
# More calls than that wait to be told to a node: it does not read.
_MOST_WAITING = 1000


class _Call:
    """One call: what goes to the node, and what comes back."""

    def __init__(self, node_id: str, method: str) -> None:
        self.id = new_id()
        self.node_id = node_id
        self.method = method
        # Its node was told of it, and has begun to answer.
        self.told = False
        self.begun = asyncio.Event()
        self.requests: Pipe[bytes] = Pipe()
        self.responses: Pipe[bytes] = Pipe()

    async def feed(self, requests: AsyncIterator[bytes]) -> None:
        """Send on what the caller sends."""
        async for request in requests:
            if not await self.requests.put(request):
                return
        self.requests.end()

    async def take(self, messages: AsyncIterator[AnswerMessage]) -> None:
        """Send on what the node answers."""
        async for message in messages:
            if message.WhichOneof("part") == "end":
                end = message.end
                self.responses.end(error_of(end.code, end.message) if end.code else None)
                return
            if not await self.responses.put(message.response):
                return

    def close(self) -> None:
        """The caller has gone, or has everything."""
        self.requests.end()
        self.requests.close()
        self.responses.close()


class NodeCalls(tasks_pb2_grpc.NodeCallsServicer):
    """Register it; run `run` while this manager leads; `call` nodes."""

    name = "node calls"

    def __init__(self, store: Store, *, answer_limit: float = ANSWER_LIMIT) -> None:
        """`answer_limit`: seconds until a node has to have begun its answer."""
        self._store = store
        self._limit = answer_limit
        self._leads = False
        self._listeners: dict[str, Pipe[NodeCall]] = {}
        self._listens = asyncio.Event()
        self._calls: dict[str, _Call] = {}

    async def run(self) -> None:
        """Runs until cancelled; then open calls end with Unavailable."""
        self._leads = True
        try:
            await asyncio.Event().wait()
        finally:
            self._leads = False
            lost = Unavailable("this manager does not lead any longer: try again")
            for listener in self._listeners.values():
                listener.end(lost)
            for call in self._calls.values():
                call.responses.end(lost)

    def listens(self, node_id: str) -> bool:
        """Whether the node can be called now."""
        return node_id in self._listeners

    async def call(self, node_id: str, method: str, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Call `method` (its path) of a node; give its answers, serialised as the requests are.

        Raises Unavailable (nobody leads here, or the node cannot be reached) and whatever the node answers.
        """
        call = _Call(node_id, method)
        self._calls[call.id] = call
        feeding: asyncio.Task[None] | None = None
        try:
            listener = await self._listener(node_id)
            call.told = True
            await listener.put(NodeCall(id=call.id, method=method))
            feeding = asyncio.create_task(call.feed(requests), name=f"requests of {method}")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limit):
                    await call.begun.wait()
            if not call.begun.is_set():
                raise Unavailable(f"node {self._name_of(node_id)} does not answer (for {self._limit:g} s)")
            async for response in call.responses:
                yield response
        finally:
            del self._calls[call.id]
            call.close()
            if feeding is not None:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    async def ask(self, node_id: str, method: str, request: Message, kind: type[M]) -> M:
        """Call a method with one request and one answer. Raises what `call` raises."""
        async with aclosing(self.call(node_id, method, _only(request))) as answers:
            async for answer in answers:
                return kind.FromString(answer)
        raise Internal(f"node {self._name_of(node_id)} gave no answer to {method}")

    async def _listener(self, node_id: str) -> Pipe[NodeCall]:
        """The node's ear. One that is there but was not heard of yet (a new leader) is waited for."""
        if not self._leads:
            raise Unavailable("this manager does not lead: try again")
        deadline = asyncio.get_running_loop().time() + self._limit
        while True:
            listener = self._listeners.get(node_id)
            if listener is not None:
                return listener
            node = self._store.nodes.get(node_id)
            if node is None:
                raise NotFound(f"node {node_id} was removed from the cluster")
            if node.status.state == NodeState.NODE_STATE_DOWN:
                raise Unavailable(f"node {self._name_of(node_id)} is down")
            self._listens.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._listens.wait()
            except TimeoutError:
                raise Unavailable(f"node {self._name_of(node_id)} cannot be reached at the moment") from None

    def _name_of(self, node_id: str) -> str:
        node = self._store.nodes.get(node_id)
        return node.description.hostname or node_id if node is not None else node_id

    # What nodes call.

    async def ListenCalls(self, request: ListenCallsRequest, context: Any) -> AsyncIterator[NodeCall]:
        """Raises Unavailable, FailedPrecondition (another stream took its place)."""
        if not self._leads:
            raise Unavailable("this manager does not lead: try again")
        node_id = current_caller().node_id
        listener: Pipe[NodeCall] = Pipe(_MOST_WAITING)
        replaced = self._listeners.get(node_id)
        if replaced is not None:
            replaced.end(FailedPrecondition("another stream of this node took this one's place"))
        self._listeners[node_id] = listener
        # Who was told by the former stream may not answer over its connection any longer (another root took over). Of
        # two answers the second is refused, before the node does anything.
        for one in self._calls.values():
            if one.node_id == node_id and one.told and not one.begun.is_set():
                await listener.put(NodeCall(id=one.id, method=one.method))
        self._listens.set()
        try:
            # So that the worker knows that it is heard of.
            await context.send_initial_metadata(())
            async for call in listener:
                yield call
        finally:
            listener.close()
            if self._listeners.get(node_id) is listener:
                del self._listeners[node_id]

    async def Answer(self, requests: AsyncIterator[AnswerMessage], context: Any) -> AsyncIterator[QuestionMessage]:
        """Raises NotFound (the caller has gone), PermissionDenied (another node was called)."""
        first = await anext(aiter(requests), None)
        call = self._calls.get(first.call_id) if first is not None else None
        if call is None or call.begun.is_set():
            raise NotFound("nobody waits for this answer (any longer)")
        node_id = current_caller().node_id
        if call.node_id != node_id:
            raise PermissionDenied(f"node {node_id} was not called")
        call.begun.set()
        taking = asyncio.create_task(call.take(requests), name=f"answers to {call.method}")
        # A connection that breaks looks like a stream that ends: only `end` says that the node has answered.
        broke = Unavailable(f"the connection to node {self._name_of(node_id)} broke")
        taking.add_done_callback(lambda _: call.responses.end(broke))
        try:
            async with aclosing(_questions(call)) as questions:
                async for question in questions:
                    yield question
            await call.responses.wait_closed()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


async def _only(message: Message) -> AsyncIterator[bytes]:
    yield message.SerializeToString()


async def _questions(call: _Call) -> AsyncGenerator[QuestionMessage, None]:
    async for request in call.requests:
        yield QuestionMessage(request=request)
    if not call.responses.closed:
        yield QuestionMessage(end=True)
