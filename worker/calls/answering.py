"""Calls of the leader into this node (proto: NodeCalls): it says what is called, and a stream is opened to answer on.

    ListenCalls ──► "answer call 7, /flota.v1.Tasks/Exec" ──► Answer ◄──► the servicer that has the method here

What managers may call is the contract's word: methods whose `authorization` names CALLER_MANAGER, of the services that
were given. Trouble with a call ends that call, never the session whose channel it uses.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import grpc.aio
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from flota.rpc.callers import Caller, set_caller
from flota.rpc.contract import methods
from flota.rpc.errors import FlotaError, PermissionDenied, status_of
from flota.rpc.pipe import Pipe
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.tasks_pb2 import AnswerMessage, ListenCallsRequest, NodeCall, QuestionMessage
from flota.v1.tasks_pb2_grpc import NodeCallsStub

if TYPE_CHECKING:
    from flota.v1.tasks_pb2_grpc import NodeCallsAsyncStub

_log = structlog.get_logger("calls")
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_MANAGER = Caller(Kind.CALLER_MANAGER)


class Answering:
    """One per worker. `run` it with every session's channel."""

    def __init__(self, servicers: Mapping[str, Any]) -> None:
        """`servicers`: a service's full name (flota.v1.Tasks) → who answers it here."""
        self._servicers = dict(servicers)
        self._open = 0

    def __len__(self) -> int:
        """How many calls are being answered."""
        return self._open

    async def run(self, channel: grpc.aio.Channel, retired: asyncio.Event) -> None:
        """Answer the managers behind `channel`; runs until cancelled.

        Once `retired`, until they call over another channel and the calls that came over this one are answered.
        """
        stub = NodeCallsStub(channel)
        pause = _FIRST_PAUSE
        async with asyncio.TaskGroup() as answers:
            while not retired.is_set():
                try:
                    async for call in stub.ListenCalls(ListenCallsRequest()):
                        pause = _FIRST_PAUSE
                        answers.create_task(self._answer(call, stub), name=f"call {call.method}")
                except grpc.aio.AioRpcError as error:
                    # A call that is being answered goes on as long as its own stream does.
                    _log.debug("not called at the moment", reason=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await retired.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _answer(self, call: NodeCall, stub: "NodeCallsAsyncStub") -> None:
        stream: Any = stub.Answer()
        questions: Pipe[bytes] = Pipe()
        # Never cancelled before the stream: a read that is cancelled takes the whole call with it.
        reading = asyncio.create_task(_read(stream, questions), name=f"questions of {call.method}")
        self._open += 1
        try:
            await stream.write(AnswerMessage(call_id=call.id))
            end = await self._served(call.method, stream, questions, reading)
            await stream.write(AnswerMessage(end=end))
            await stream.done_writing()
            # Until whoever asked has it all.
            questions.close()
            await asyncio.wait((reading,))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            _log.debug("a call broke off", method=call.method, reason=str(error))
        finally:
            self._open -= 1
            stream.cancel()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _served(
        self, path: str, stream: Any, questions: Pipe[bytes], reading: "asyncio.Task[None]"
    ) -> AnswerMessage.End:
        """Answer what is asked; gives how it ended."""
        serving = asyncio.create_task(self._serve(path, stream, questions), name=f"serving {path}")
        try:
            # A caller who has gone ends the stream, and so the call.
            await asyncio.wait((serving, reading), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            return AnswerMessage.End()
        except grpc.aio.AioRpcError:
            raise
        except Exception as error:  # noqa: BLE001 - one call's trouble is not the others'
            if not isinstance(error, FlotaError):
                _log.exception("a call failed", method=path)
            code, message = status_of(error)
            return AnswerMessage.End(code=code, message=message)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _serve(self, path: str, stream: Any, questions: Pipe[bytes]) -> None:
        rule, descriptor, handler = self._method(path)
        set_caller(_MANAGER)
        requests = _requests(questions, GetMessageClass(descriptor.input_type))
        argument = requests if rule.client_streams else await anext(requests, None)
        if argument is None:
            # It was answered over another stream, or nobody asks any longer.
            return
        if not rule.server_streams:
            await _send(stream, await handler(argument, None))
            return
        async with aclosing(handler(argument, None)) as answers:
            async for answer in answers:
                await _send(stream, answer)

    def _method(self, path: str) -> tuple[Any, MethodDescriptor, Any]:
        """What the contract says, the method, and who answers it. Raises PermissionDenied."""
        service, _, name = path.removeprefix("/").rpartition("/")
        rule, servicer = methods().get(path), self._servicers.get(service)
        if rule is None or servicer is None or Kind.CALLER_MANAGER not in rule.callers:
            raise PermissionDenied(f"managers cannot call {path} of a node")
        descriptor = Default().FindServiceByName(service).methods_by_name[name]
        return rule, descriptor, getattr(servicer, name)


async def _read(stream: Any, questions: Pipe[bytes]) -> None:
    """What is asked, until whoever asks has gone."""
    try:
        while isinstance(question := await stream.read(), QuestionMessage):
            if question.WhichOneof("part") == "end":
                questions.end()
            else:
                await questions.put(question.request)
    except grpc.aio.AioRpcError:
        pass
    finally:
        questions.end()


async def _requests(questions: Pipe[bytes], kind: type[Message]) -> AsyncIterator[Any]:
    async for question in questions:
        yield kind.FromString(question)


async def _send(stream: Any, answer: Message) -> None:
    await stream.write(AnswerMessage(response=answer.SerializeToString()))
