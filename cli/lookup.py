"""From what a person typed (id, name or the beginning of an id) to the one object meant.

The daemon decides what matches, in Docker's order: an id, then a name, then a unique prefix of an id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from flota.cli.failures import CommandFailed

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.objects_pb2 import Config, Network, Node, Secret, Service, Task

T = TypeVar("T")
# Look-ups that are on their way at the same time.
_AT_ONCE = 20


class Missing(CommandFailed):
    """There is no such thing."""


async def _asked(kind: str, wanted: str, call: Awaitable[T]) -> T:
    import grpc

    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise Missing(f"no such {kind}: {wanted}") from None
        raise


async def every(session: Session, find: Callable[[Session, str], Awaitable[T]], wanted: Iterable[str]) -> list[T]:
    """What is meant by each of `wanted`, in order. Raises the first failure."""
    import asyncio

    found: list[T] = []
    words = list(wanted)
    for start in range(0, len(words), _AT_ONCE):
        found += await asyncio.gather(*(find(session, word) for word in words[start : start + _AT_ONCE]))
    return found


async def each(
    session: Session, find: Callable[[Session, str], Awaitable[T]], wanted: Iterable[str]
) -> tuple[list[T], list[str]]:
    """What is there of `wanted`, in order, and a line for each that is not."""
    import grpc

    from flota.cli.session import failure_of

    async def one(session: Session, word: str) -> T | str:
        try:
            return await find(session, word)
        except CommandFailed as failure:
            return str(failure)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise
            return str(failure_of(error, session.host))

    answers = await every(session, one, wanted)
    found = [answer for answer in answers if not isinstance(answer, str)]
    return found, [answer for answer in answers if isinstance(answer, str)]


def fail_with(failures: Iterable[str]) -> None:
    """Raise CommandFailed with a line for each failure, if there are any."""
    if lines := list(failures):
        raise CommandFailed("\nflota: ".join(lines))


async def service(session: Session, wanted: str) -> Service:
    """The service meant. Raises Missing."""
    from flota.v1.control_pb2 import GetServiceRequest

    request = GetServiceRequest(service_id=wanted)
    return (await _asked("service", wanted, session.control.GetService(request))).service


async def node(session: Session, wanted: str) -> Node:
    """The node meant, by id, hostname or prefix of an id; `self` is this one. Raises Missing."""
    from flota.v1.control_pb2 import GetNodeRequest

    request = GetNodeRequest(node_id=await own_node_id(session) if wanted == "self" else wanted)
    return (await _asked("node", wanted, session.control.GetNode(request))).node


async def own_node_id(session: Session) -> str:
    """The id of the node whose daemon this is. Raises CommandFailed when it is in no swarm."""
    from flota.v1.local_pb2 import InfoRequest

    node_id = (await session.local.Info(InfoRequest())).node_id
    if not node_id:
        raise CommandFailed("this node is not part of a swarm (flota swarm init, flota swarm join)")
    return node_id


async def network(session: Session, wanted: str) -> Network:
    """The network meant. Raises Missing."""
    from flota.v1.control_pb2 import GetNetworkRequest

    request = GetNetworkRequest(network_id=wanted)
    return (await _asked("network", wanted, session.control.GetNetwork(request))).network


async def secret(session: Session, wanted: str) -> Secret:
    """The secret meant. Raises Missing."""
    from flota.v1.control_pb2 import GetSecretRequest

    request = GetSecretRequest(secret_id=wanted)
    return (await _asked("secret", wanted, session.control.GetSecret(request))).secret


async def config(session: Session, wanted: str) -> Config:
    """The config meant. Raises Missing."""
    from flota.v1.control_pb2 import GetConfigRequest

    request = GetConfigRequest(config_id=wanted)
    return (await _asked("config", wanted, session.control.GetConfig(request))).config


async def task(session: Session, wanted: str) -> Task:
    """The task meant, by id, whole name or prefix of an id. Raises Missing."""
    from flota.v1.control_pb2 import GetTaskRequest

    request = GetTaskRequest(task_id=wanted)
    return (await _asked("task", wanted, session.control.GetTask(request))).task


async def task_in_slot(session: Session, wanted: str) -> Task:
    """The task meant, also by SERVICE.SLOT: the newest one there. Raises Missing."""
    from flota.v1.control_pb2 import ListFilters, ListTasksRequest
    from flota.v1.task_states import is_wanted

    try:
        return await task(session, wanted)
    except Missing:
        filters = ListFilters(names=[wanted])
        found = (await session.control.ListTasks(ListTasksRequest(filters=filters))).tasks if "." in wanted else []
        if not found:
            raise
        return max(found, key=lambda one: (is_wanted(one), one.meta.version.index))


async def task_or_service(session: Session, wanted: str) -> Service | Task:
    """What `service logs` takes: a service, or one task. Raises Missing."""
    try:
        return await service(session, wanted)
    except Missing:
        try:
            return await task_in_slot(session, wanted)
        except Missing:
            raise Missing(f"no such task or service: {wanted}") from None
