"""Names that a shell completes: asked of the daemon when a person presses Tab.

Never fails and never keeps a person waiting: without an answer in time there is nothing to complete.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

    from flota.cli.session import Session

Completer = Callable[["click.Context", "click.Parameter", str], list[str]]

# How long an answer may take, in seconds; FLOTA_COMPLETION_SECONDS says otherwise.
_PATIENCE = "1"


async def _services(session: Session) -> Iterable[str]:
    from flota.v1.control_pb2 import ListServicesRequest

    answer = await session.control.ListServices(ListServicesRequest())
    return [service.spec.annotations.name for service in answer.services]


async def _tasks(session: Session) -> Iterable[str]:
    from flota.v1.control_pb2 import ListFilters, ListTasksRequest
    from flota.v1.types_pb2 import TaskState

    running = TaskState.TASK_STATE_RUNNING
    answer = await session.control.ListTasks(ListTasksRequest(filters=ListFilters(desired_states=[running])))
    tasks = [task for task in answer.tasks if task.status.state <= running]
    return [
        *{task.service_annotations.name for task in tasks},
        *(f"{task.service_annotations.name}.{task.slot or task.node_id}" for task in tasks),
    ]


async def _nodes(session: Session) -> Iterable[str]:
    from flota.v1.control_pb2 import ListNodesRequest

    answer = await session.control.ListNodes(ListNodesRequest())
    return ["self", *(node.description.hostname for node in answer.nodes)]


async def _networks(session: Session) -> Iterable[str]:
    from flota.v1.control_pb2 import ListNetworksRequest

    answer = await session.control.ListNetworks(ListNetworksRequest())
    return [network.spec.annotations.name for network in answer.networks]


async def _secrets(session: Session) -> Iterable[str]:
    from flota.v1.control_pb2 import ListSecretsRequest

    answer = await session.control.ListSecrets(ListSecretsRequest())
    return [secret.spec.annotations.name for secret in answer.secrets]


async def _configs(session: Session) -> Iterable[str]:
    from flota.v1.control_pb2 import ListConfigsRequest

    answer = await session.control.ListConfigs(ListConfigsRequest())
    from flota.v1.stack_records import is_record

    return [config.spec.annotations.name for config in answer.configs if not is_record(config)]


async def _images(session: Session) -> Iterable[str]:
    from flota.v1.local_pb2 import ListImagesRequest

    answer = await session.agent.ListImages(ListImagesRequest())
    return [reference for image in answer.images for reference in image.references]


async def _volumes(session: Session) -> Iterable[str]:
    from flota.cli.volumes import of_all_nodes

    return [one.volume.name for one in await of_all_nodes(session)]


async def _stacks(session: Session) -> Iterable[str]:
    from flota.v1.control_pb2 import ListServicesRequest

    answer = await session.control.ListServices(ListServicesRequest())
    return [service.spec.annotations.labels.get("com.docker.stack.namespace", "") for service in answer.services]


def _completer(ask: Callable[[Session], Awaitable[Iterable[str]]], ending: str = "") -> Completer:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        given = ctx.params.get(param.name or "") if param.nargs == -1 else None
        known = set(given) if isinstance(given, tuple) else set()
        names = {name for name in _asked(ctx, ask) if name and name not in known and name.startswith(incomplete)}
        return [name + ending for name in sorted(names)]

    return complete


def _asked(ctx: click.Context, ask: Callable[[Session], Awaitable[Iterable[str]]]) -> Iterable[str]:
    import asyncio
    import os

    from flota.cli.main import DEFAULT_HOST
    from flota.cli.session import Session, socket_path

    async def names() -> Iterable[str]:
        host = ctx.find_root().params.get("host") or os.environ.get("FLOTA_HOST") or DEFAULT_HOST
        session = Session(f"unix://{socket_path(host)}")
        try:
            return await asyncio.wait_for(ask(session), patience)
        finally:
            await session.close()

    try:
        patience = float(os.environ.get("FLOTA_COMPLETION_SECONDS") or _PATIENCE)
        return asyncio.run(names())
    except Exception:  # noqa: BLE001 - whatever it is, a person who presses Tab cannot do anything about it
        return ()


def one_of(words: Sequence[str]) -> Completer:
    """Words that are known without asking."""
    return lambda ctx, param, incomplete: [word for word in words if word.startswith(incomplete)]


services = _completer(_services)
scales = _completer(_services, ending="=")
tasks = _completer(_tasks)
nodes = _completer(_nodes)
networks = _completer(_networks)
secrets = _completer(_secrets)
configs = _completer(_configs)
images = _completer(_images)
stacks = _completer(_stacks)
volumes = _completer(_volumes)
