"""Calls of the leader into a node that listens anew."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from flota.v1.tasks_pb2 import AnswerMessage, ListenCallsRequest
from flota.v1.tasks_pb2_grpc import NodeCallsStub
from tests.unit.dispatcher.swarm import PATIENCE, Swarm


async def only(request: bytes) -> AsyncIterator[bytes]:
    yield request


async def test_a_node_that_listens_anew_is_told_of_calls_that_it_has_not_begun_to_answer(tmp_path: Path) -> None:
    async with Swarm(tmp_path).serving() as swarm, asyncio.timeout(PATIENCE):
        stub: Any = NodeCallsStub((await swarm.node("w1")).channel)
        former = stub.ListenCalls(ListenCallsRequest())
        answers = swarm.node_calls.call("w1", "/flota.v1.Tasks/Top", only(b"question"))
        asking = asyncio.ensure_future(anext(answers))
        told = await former.read()
        # It says nothing, for it may not over that connection.
        listening = stub.ListenCalls(ListenCallsRequest())
        assert await listening.read() == told
        answer, late = stub.Answer(), stub.Answer()
        await answer.write(AnswerMessage(call_id=told.id))
        assert (await answer.read()).request == b"question"
        await late.write(AnswerMessage(call_id=told.id))
        with pytest.raises(grpc.aio.AioRpcError, match="nobody waits for this answer"):
            await late.read()
        await answer.write(AnswerMessage(response=b"answer"))
        assert await asking == b"answer"
        # Nor is it told of what it has begun.
        third, another = stub.ListenCalls(ListenCallsRequest()), swarm.node_calls.call("w1", "/x", only(b""))
        await third.wait_for_connection()
        waiting = asyncio.ensure_future(anext(another))
        assert (await third.read()).method == "/x"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for one in (answers, another):
            await one.aclose()
