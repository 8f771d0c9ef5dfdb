"""All containers of this node that belong to no service: made, found by name, told of; a life (life.py) for each."""

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import SystemRandom

from flota.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from flota.v1.containers_pb2 import PlainContainer
from flota.v1.made_up_names import made_up_name
from flota.v1.network_options import BRIDGE, PREDEFINED
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import TaskStatus
from flota.worker.containers.bridges import Bridges
from flota.worker.containers.history import History
from flota.worker.containers.life import Life
from flota.worker.containers.records import Records
from flota.worker.containers.wiring import add_own_alias, check_endpoint, check_together
from flota.worker.runtime.container import ContainerState
from flota.worker.tasks.life import ASSIGNED
from flota.worker.tasks.parts import Parts


class Containers:
    """See the module's docstring. Usable once `start`ed with what the runtime found."""

    def __init__(self, directory: Path, node_id: str, history: History) -> None:
        """What is known of them is in `directory`; `history` hears what happens. Raises OSError."""
        self._records = Records(directory, PlainContainer)
        self._remembered = {record.task.id: record for record in self._records.all()}
        self._node_id = node_id
        self._random = SystemRandom()
        self._lives: dict[str, Life] = {}
        self._history = history
        self._told = history.told

    @property
    def ids(self) -> set[str]:
        """Of all that are remembered, before `start`."""
        return set(self._remembered)

    def start(self, parts: Parts, bridges: Bridges, found: Mapping[str, ContainerState]) -> None:
        """Take up what an earlier worker left. `parts` are those of tasks, but that containers live again."""
        self._parts = parts
        self.bridges = bridges
        bridges.told = self._told_of_network
        for record in self._remembered.values():
            # It may have been in no cluster, or in another one.
            record.task.node_id = self._node_id
            parts.images.hold(record.task.id, record.image_id)
            life = self._add(record)
            # The overlay remembers what it was called when it was attached.
            self.bridges.rename(life.record.task)
            life.resume(found.get(life.id))

    async def stop(self) -> None:
        """The worker stops: look after them no longer. They run on."""
        await asyncio.gather(*(life.leave() for life in self._lives.values()))

    async def end_those_of_the_swarm(self) -> None:
        """The machine has left its swarm: what was on its networks runs no longer, and keeps what it wrote."""
        here = {network.id for network in self.bridges.all()} | {*PREDEFINED}
        gone = [life for life in self._lives.values() if not here.issuperset(life.networks)]
        await asyncio.gather(*(life.stop() for life in gone))

    # Looking.

    def all(self) -> list[PlainContainer]:
        """As they are now, with the addresses they have."""
        return [self.shown(life) for life in self._lives.values()]

    def shown(self, life: Life) -> PlainContainer:
        """One of them, as it is now."""
        shown = PlainContainer()
        shown.CopyFrom(life.record)
        shown.task.spec.container.registry_auth = ""
        shown.restarting = life.is_active and is_terminal(life.record.task)
        if (health := life.health) is not None:
            shown.health.CopyFrom(health)
        del shown.task.networks[:]
        shown.task.networks.extend(life.wiring.shown())
        return shown

    def tasks(self) -> Iterable[tuple[Task, TaskStatus]]:
        """Each as a task, with how far it is."""
        for life in self._lives.values():
            yield life.record.task, life.record.task.status

    def known(self, container_id: str) -> Life | None:
        """By its whole id."""
        return self._lives.get(container_id)

    def find(self, container_id: str) -> Life:
        """By its whole id. Raises NotFound."""
        life = self._lives.get(container_id)
        if life is None:
            raise NotFound(f"No such container: {container_id}")
        return life

    # Making and naming.

    async def create(self, wanted: PlainContainer) -> Life:
        """Make one; nothing of it runs. Raises AlreadyExists, ImageNotFound, InvalidArgument, FailedPrecondition."""
        record = PlainContainer()
        record.CopyFrom(wanted)
        task = record.task
        task.id = task.id or secrets.token_hex(32)
        task.node_id = self._node_id
        name = task.service_annotations.name or made_up_name(self._random, self._is_taken)
        self._require_free(name)
        task.service_annotations.name = name
        task.status.Clear()
        task.status.state = ASSIGNED
        task.meta.created_at.GetCurrentTime()
        task.status.timestamp.CopyFrom(task.meta.created_at)
        if not task.spec.networks:
            task.spec.networks.add(target=BRIDGE)
        check_together([wanted.target for wanted in task.spec.networks])
        for network in task.spec.networks:
            check_endpoint(network)
            add_own_alias(task, network)
        record.image_id = self._parts.images.here(task.spec.container.image)
        self._parts.images.hold(task.id, record.image_id)
        life = self._add(record)
        try:
            self._records.save(task.id, record)
        except OSError as error:
            del self._lives[task.id]
            self._parts.images.release(task.id)
            raise FailedPrecondition(f"the container could not be written down: {error}") from None
        self._told("create", record)
        return life

    def rename(self, life: Life, name: str) -> None:
        """Raises AlreadyExists, InvalidArgument, OSError."""
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        self._require_free(name)
        life.record.task.service_annotations.name = name
        self._records.save(life.id, life.record)
        self.bridges.rename(life.record.task)
        self._told("rename", life.record)

    def _require_free(self, name: str) -> None:
        for life in self._lives.values():
            if life.name == name:
                raise AlreadyExists(
                    f'Conflict. The container name "/{name}" is already in use by container "{life.id}". You have to '
                    "remove (or rename) that container to be able to reuse that name."
                )

    def _is_taken(self, name: str) -> bool:
        return any(life.name == name for life in self._lives.values())

    def _add(self, record: PlainContainer) -> Life:
        life = Life(record, self._parts, self.bridges, self._records, self._told, self._remove)
        self._lives[life.id] = life
        return life

    async def _remove(self, container_id: str) -> None:
        await self._parts.containers.remove(container_id)
        self._parts.images.release(container_id)
        del self._lives[container_id]

    def _told_of_network(self, container_id: str, action: str, network: Network) -> None:
        if (life := self._lives.get(container_id)) is not None:
            self._history.told(action, life.record, network)
