"""The allocator's loop: NEW tasks get addresses and become PENDING; networks get subnets, services their endpoints.

All that is new when it looks goes into as few transactions as fit, in the order networks, services, tasks, so that
tasks never wait for a round of their own. What cannot be had now keeps a message that says why and is tried again when
something is given back. Semantics: SwarmKit's manager/allocator.
"""

from collections.abc import Callable, Iterable

import structlog

from flota.manager.allocator.addresses import Exhausted, Taken
from flota.manager.allocator.state import Allocation, NotThere, NotYet
from flota.manager.clock import Clock
from flota.manager.orchestrator.changes import Group, commit
from flota.manager.store import Event, Store
from flota.manager.watch_loop import RETRY_DELAY, WatchLoop
from flota.v1.objects_pb2 import Cluster, Network, Node, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeState, TaskState

_log = structlog.get_logger("allocator")


class Allocator(WatchLoop):
    """A loop of the leader."""

    name = "allocator"
    kinds = ("network", "service", "task", "node", "cluster")

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock)
        # Objects to look at, by id, oldest first; and those that must wait until something is given back.
        self._dirty: dict[str, str] = {}
        self._blocked: dict[str, str] = {}
        # Services that something is refused to, and what.
        self._refused: dict[str, str] = {}

    def _begin(self) -> None:
        self._allocation = Allocation(self._store)
        self._blocked, self._refused = {}, {}
        self._dirty = {network.id: "network" for network in self._store.networks}
        self._dirty |= {service.id: "service" for service in self._store.services}
        self._dirty |= {task.id: "task" for task in self._store.tasks.by("state", TaskState.TASK_STATE_NEW)}

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            removed = event.kind == StoreAction.KIND_REMOVE
            match event.object:
                case Task() as task:
                    self._note_task(task, removed)
                case Service() as service:
                    if removed:
                        self._allocation.release_service(service.id)
                        self._refused.pop(service.id, None)
                        self._unblock()
                    else:
                        self._dirty[service.id] = "service"
                case Network() as network:
                    if removed:
                        self._allocation.release_network(network.id)
                    else:
                        self._dirty[network.id] = "network"
                    self._unblock()
                case Node() as node:
                    # What was there keeps its addresses for itself no longer.
                    if removed or node.status.state == NodeState.NODE_STATE_DOWN:
                        self._unblock()
                case Cluster() if event.kind == StoreAction.KIND_CREATE:
                    # Only now are the address pools known.
                    self._begin()
                case _:
                    pass

    def _note_task(self, task: Task, removed: bool) -> None:
        if removed or is_terminal(task):
            self._dirty.pop(task.id, None)
            self._blocked.pop(task.id, None)
            if self._allocation.release_task(task.id):
                self._unblock()
        elif task.status.state == TaskState.TASK_STATE_NEW and task.id not in self._blocked:
            self._dirty[task.id] = "task"
            # It may be in a slot that has no addresses yet.
            self._dirty.setdefault(task.service_id, "service")

    def _unblock(self) -> None:
        self._dirty |= self._blocked
        self._blocked.clear()

    def _is_due(self) -> bool:
        return bool(self._dirty)

    async def _round(self) -> float:
        """Allocate what is dirty and commit it."""
        dirty, self._dirty = self._dirty, {}
        groups: list[Group] = []
        services: dict[str, Service] = {}
        for kind in ("network", "service", "task"):
            for object_id, word in dirty.items():
                if word == kind:
                    group = self._allocate(object_id, kind, services)
                    if group is not None:
                        groups.append(group)
        stale, failed = await commit(self._store, groups)
        for object_id in stale | failed:
            self._allocation.reload(object_id)
            self._dirty[object_id] = dirty[object_id]
        return RETRY_DELAY if failed else 0.0

    def _allocate(self, object_id: str, kind: str, services: dict[str, Service]) -> Group | None:
        makers: dict[str, Callable[[str, dict[str, Service]], Network | Service | Task | None]] = {
            "network": self._network,
            "service": self._service,
            "task": self._task,
        }
        try:
            made = makers[kind](object_id, services)
        except NotYet as reason:
            return self._block(object_id, kind, str(reason), tell=isinstance(reason, NotThere))
        except (Exhausted, Taken) as reason:
            return self._block(object_id, kind, str(reason), tell=True)
        return None if made is None else Group(object_id, update=[made])

    def _network(self, network_id: str, services: dict[str, Service]) -> Network | None:
        network = self._store.networks.get(network_id)
        return None if network is None else self._allocation.allocate_network(network)

    def _service(self, service_id: str, services: dict[str, Service]) -> Service | None:
        service = self._store.services.get(service_id)
        made = None if service is None else self._allocation.allocate_service(service)
        self._refused.pop(service_id, None)
        if made is not None:
            services[service_id] = made
            self._unblock_tasks_of(service_id)
        return made

    def _unblock_tasks_of(self, service_id: str) -> None:
        for task_id, kind in list(self._blocked.items()):
            task = self._store.tasks.get(task_id) if kind == "task" else None
            if task is not None and task.service_id == service_id:
                self._dirty[task_id] = self._blocked.pop(task_id)

    def _task(self, task_id: str, services: dict[str, Service]) -> Task | None:
        task = self._store.tasks.get(task_id)
        if task is None or task.status.state != TaskState.TASK_STATE_NEW:
            return None
        if task.desired_state > TaskState.TASK_STATE_COMPLETE:
            return None
        if task.service_id in self._refused:
            raise Exhausted(self._refused[task.service_id])
        service = services.get(task.service_id) or self._store.services.get(task.service_id)
        return self._allocation.allocate_task(task, service, self._clock.now())

    def _block(self, object_id: str, kind: str, reason: str, tell: bool) -> Group | None:
        """Leave it until something is given back; a task then shows people why it waits."""
        self._blocked[object_id] = kind
        if tell:
            _log.warning("cannot allocate", kind=kind, id=object_id, reason=reason)
            if kind == "service":
                self._refused[object_id] = reason
        task = self._store.tasks.get(object_id) if kind == "task" else None
        if task is None or task.status.message == reason:
            return None
        waiting = Task()
        waiting.CopyFrom(task)
        waiting.status.message = reason
        waiting.status.error = reason if tell else ""
        return Group(object_id, update=[waiting])
