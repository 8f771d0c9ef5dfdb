"""Takes a stack down: services first, then, when their tasks have gone, networks, secrets and configs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from flota.cli.stack.deploying import ignoring_missing
from flota.cli.stack.inventory import Inventory
from flota.cli.watching import until_true
from flota.v1.control_pb2 import WatchMessage, WatchRequest
from flota.v1.store_pb2 import StoreAction
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeState

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.objects_pb2 import Task


async def remove_stack(session: Session, there: Inventory, say: Callable[[str], None], detach: bool) -> list[str]:
    """Remove all that a stack has. Gives a line for each thing that could not be removed.

    Detached, it waits only for what networks wait for: that their tasks have stopped.
    """
    from flota.v1.control_pb2 import RemoveConfigRequest, RemoveServiceRequest

    failures: list[str] = []
    for name, service in sorted(there.services.items()):
        say(f"Removing service {name}")
        await _try(
            session,
            failures,
            session.control.RemoveService(RemoveServiceRequest(service_id=service.id)),
            "service",
            name,
        )
    failures += await remove_objects(session, there, say, stopped_is_enough=detach)
    for record in there.records:
        request = RemoveConfigRequest(config_id=record.id)
        await _try(session, failures, session.control.RemoveConfig(request), "config", record.spec.annotations.name)
    return failures


async def remove_objects(
    session: Session, there: Inventory, say: Callable[[str], None], stopped_is_enough: bool = True
) -> list[str]:
    """Remove secrets and configs, and networks once the tasks of the (removed) services have gone."""
    from flota.v1.control_pb2 import RemoveConfigRequest, RemoveNetworkRequest, RemoveSecretRequest

    failures: list[str] = []
    for name, secret in sorted(there.secrets.items()):
        say(f"Removing secret {name}")
        call = session.control.RemoveSecret(RemoveSecretRequest(secret_id=secret.id))
        await _try(session, failures, call, "secret", name)
    for name, config in sorted(there.configs.items()):
        say(f"Removing config {name}")
        request = RemoveConfigRequest(config_id=config.id)
        await _try(session, failures, session.control.RemoveConfig(request), "config", name)
    if there.services and (there.networks or not stopped_is_enough):
        await wait_until_gone(session, [service.id for service in there.services.values()], stopped_is_enough)
    for name, network in sorted(there.networks.items()):
        say(f"Removing network {name}")
        call_ = session.control.RemoveNetwork(RemoveNetworkRequest(network_id=network.id))
        await _try(session, failures, call_, "network", name)
    return failures


async def _try(session: Session, failures: list[str], call: Awaitable[object], kind: str, name: str) -> None:
    import grpc

    from flota.cli.session import failure_of

    try:
        await ignoring_missing(call)
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            raise failure_of(error, session.host) from None
        failures.append(f"{kind} {name}: {error.details()}")


async def wait_until_gone(session: Session, service_ids: list[str], stopped_is_enough: bool) -> None:
    """Return when no task of these services is left (or, if that is enough, none that has not stopped).

    Tasks on nodes that are down are not waited for: nobody knows when those come back.
    """
    await until_true(lambda hear: _follow(session, service_ids, stopped_is_enough, hear))


async def _follow(
    session: Session, service_ids: Iterable[str], stopped_is_enough: bool, hear: Callable[[], None]
) -> bool:
    """Follow one stream; False when it ended before the tasks did."""
    selectors = [
        WatchRequest.Selector(kind="task", service_ids=service_ids),
        WatchRequest.Selector(kind="node"),
    ]
    stream = session.control.Watch(WatchRequest(selectors=selectors, include_existing=True))
    tasks: dict[str, Task] = {}
    down: dict[str, bool] = {}
    complete = False

    def counts(task: Task) -> bool:
        return not (stopped_is_enough and is_terminal(task)) and not down.get(task.node_id, False)

    try:
        async for message in stream:
            assert isinstance(message, WatchMessage)
            hear()
            thing, removed = message.object, message.kind == StoreAction.KIND_REMOVE
            match thing.WhichOneof("kind"):
                case "task":
                    tasks.pop(thing.task.id, None) if removed else tasks.update({thing.task.id: thing.task})
                case "node":
                    down[thing.node.id] = removed or thing.node.status.state == NodeState.NODE_STATE_DOWN
            complete = complete or message.kind == StoreAction.KIND_UNSPECIFIED
            if complete and not any(map(counts, tasks.values())):
                return True
    finally:
        with suppress(asyncio.CancelledError):
            stream.cancel()
    return False
