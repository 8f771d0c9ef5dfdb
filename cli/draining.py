"""Waits until a drained node runs nothing any more, and shows what is left and why.

One Watch stream of the node's tasks and the services' new ones; Ctrl-C ends the wait, never the drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from flota.cli.failures import CommandFailed
from flota.cli.watching import until_true

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.objects_pb2 import Node, Task


async def wait_until_empty(session: Session, node: Node, limit: float | None) -> None:
    """Return when no task runs on the node. Raises CommandFailed after `limit` seconds, with what is left."""
    left: dict[str, Task] = {}
    try:
        async with asyncio.timeout(limit):
            await until_true(lambda hear: _read(session, node, left, hear))
    except TimeoutError:
        raise CommandFailed(f"not drained within {limit:g} s: {await _why(session, left)}") from None
    click.echo(f"Node {node.description.hostname or node.id} runs no tasks.")


async def _read(session: Session, node: Node, left: dict[str, Task], hear: Callable[[], None]) -> bool:
    from flota.v1.control_pb2 import WatchRequest
    from flota.v1.store_pb2 import StoreAction
    from flota.v1.types_pb2 import TaskState

    request = WatchRequest(
        selectors=[WatchRequest.Selector(kind="task", node_ids=[node.id])], include_existing=True
    )  # fmt: skip
    stream = session.control.Watch(request)
    left.clear()
    complete = False
    shown = -1
    try:
        async for message in stream:
            hear()
            task = message.object.task
            if message.kind == StoreAction.KIND_UNSPECIFIED:
                complete = True
            elif (
                message.kind == StoreAction.KIND_REMOVE
                or not TaskState.TASK_STATE_ASSIGNED <= task.status.state <= TaskState.TASK_STATE_RUNNING
            ):
                left.pop(task.id, None)
            else:
                left[task.id] = task
            if complete and len(left) != shown:
                shown = len(left)
                if left:
                    click.echo(f"{shown} tasks left on {node.description.hostname or node.id}")
            if complete and not left:
                return True
        return False
    finally:
        stream.cancel()


async def _why(session: Session, left: dict[str, Task]) -> str:
    """What is left, and what the tasks that are to take over wait for."""
    from flota.cli.output.tasks import display_name
    from flota.v1.control_pb2 import ListFilters, ListTasksRequest
    from flota.v1.types_pb2 import TaskState

    ids = {task.service_id for task in left.values()}
    answer = await session.control.ListTasks(ListTasksRequest(filters=ListFilters(service_ids=sorted(ids))))
    successors = {task.replaces: task for task in answer.tasks if task.desired_state <= TaskState.TASK_STATE_COMPLETE}
    parts = []
    for task in left.values():
        successor = successors.get(task.id)
        why = successor.status.error or successor.status.message if successor is not None else ""
        parts.append(display_name(task) + (f" ({why})" if why else ""))
    return ", ".join(sorted(parts)) + (" is" if len(parts) == 1 else " are") + " still there"
