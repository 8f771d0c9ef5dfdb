"""From what a person typed (id, name or the beginning of an id) to the one object meant.

Order as Docker's: an id, then a name, then a unique prefix of an id. One call asks for all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flota.cli.failures import CommandFailed

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.objects_pb2 import Config, Network, Node, Secret, Service, Task


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


class Missing(CommandFailed):
    """There is no such thing."""


def choose(kind: str, wanted: str, objects: Iterable[T], names: dict[str, str] | None = None) -> T:
    """The object that `wanted` means. `names` maps ids to names (default: the spec's). Raises CommandFailed."""
    found = list(objects)

    def name_of(each: Any) -> str:
        return names[each.id] if names is not None else each.spec.annotations.name

    for matching in (
        [each for each in found if each.id == wanted],
        [each for each in found if name_of(each) == wanted],
        [each for each in found if wanted and each.id.startswith(wanted)],
    ):
        if len(matching) == 1:
            return matching[0]
        if matching:
            ids = ", ".join(each.id[:12] for each in matching)
            raise CommandFailed(f"{kind} {wanted} is ambiguous ({len(matching)} matches found: {ids})")
    raise Missing(f"no such {kind}: {wanted}")


async def services(session: Session, wanted: Iterable[str]) -> list[Service]:
    """The services meant, in order. Raises CommandFailed."""
    from flota.v1.control_pb2 import ListServicesRequest

    answer = await session.control.ListServices(ListServicesRequest())
    return [choose("service", each, answer.services) for each in wanted]


async def service(session: Session, wanted: str) -> Service:
    """The service meant. Raises CommandFailed."""
    return (await services(session, [wanted]))[0]


async def nodes(session: Session, wanted: Iterable[str]) -> list[Node]:
    """The nodes meant, by id, hostname or prefix of an id; `self` is this one. Raises CommandFailed."""
    from flota.v1.control_pb2 import ListNodesRequest

    words = list(wanted)
    self_id = await own_node_id(session) if "self" in words else ""
    answer = await session.control.ListNodes(ListNodesRequest())
    names = {node.id: node.description.hostname for node in answer.nodes}
    return [choose("node", self_id if each == "self" else each, answer.nodes, names) for each in words]


async def own_node_id(session: Session) -> str:
    """The id of the node whose daemon this is; empty when it is in no swarm."""
    from flota.v1.local_pb2 import InfoRequest

    return (await session.local.Info(InfoRequest())).node_id


async def networks(session: Session, wanted: Iterable[str]) -> list[Network]:
    """The networks meant. Raises CommandFailed."""
    from flota.v1.control_pb2 import ListNetworksRequest

    answer = await session.control.ListNetworks(ListNetworksRequest())
    return [choose("network", each, answer.networks) for each in wanted]


async def secrets(session: Session, wanted: Iterable[str]) -> list[Secret]:
    """The secrets meant. Raises CommandFailed."""
    from flota.v1.control_pb2 import ListSecretsRequest

    answer = await session.control.ListSecrets(ListSecretsRequest())
    return [choose("secret", each, answer.secrets) for each in wanted]


async def configs(session: Session, wanted: Iterable[str]) -> list[Config]:
    """The configs meant. Raises CommandFailed."""
    from flota.v1.control_pb2 import ListConfigsRequest

    answer = await session.control.ListConfigs(ListConfigsRequest())
    return [choose("config", each, answer.configs) for each in wanted]


async def task_or_service(session: Session, wanted: str) -> Service | Task:
    """What `service logs` takes: a service, or one task. Raises CommandFailed."""
    from flota.v1.control_pb2 import ListTasksRequest

    try:
        return await service(session, wanted)
    except Missing:
        answer = await session.control.ListTasks(ListTasksRequest())
        names = {task.id: "" for task in answer.tasks}
        try:
            return choose("task", wanted, answer.tasks, names)
        except Missing:
            raise Missing(f"no such task or service: {wanted}") from None
