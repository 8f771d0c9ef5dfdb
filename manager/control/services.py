"""Services: create, update, roll back, remove, list, and how many of their tasks run."""

from typing import Any

from flota.manager.clock import seconds, timestamp
from flota.manager.control.base import ControlBase, check_version
from flota.manager.control.claims import Claim
from flota.manager.control.histories import go_to, record, revision_of
from flota.manager.control.lookup import find, matching
from flota.manager.control.network_room import too_small
from flota.manager.control.ports import check_ports_free
from flota.manager.control.references import require_ingress, resolve
from flota.manager.control.service_rules import check_service, mode_of
from flota.manager.control.shown import shown_service
from flota.manager.control.statuses import status_of
from flota.manager.control.task_rules import unknown_keys
from flota.manager.scheduler.demand import BINPACK, fills_nodes
from flota.manager.store import Transaction
from flota.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Unsupported
from flota.v1.control_pb2 import (
    CreateServiceRequest,
    CreateServiceResponse,
    GetServiceRequest,
    GetServiceResponse,
    ListServicesRequest,
    ListServicesResponse,
    ListServiceStatusesRequest,
    ListServiceStatusesResponse,
    RemoveServiceRequest,
    RemoveServiceResponse,
    UpdateServiceRequest,
    UpdateServiceResponse,
)
from flota.v1.ids import new_id
from flota.v1.made_up_names import made_up_name
from flota.v1.objects_pb2 import Service
from flota.v1.service_defaults import with_defaults
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import UpdateStatus

_JOBS = ("replicated_job", "global_job")


class Services(ControlBase):
    """The calls about services."""

    async def GetService(self, request: GetServiceRequest, context: Any) -> GetServiceResponse:
        """One service by id or name."""
        store = await self._fresh()
        return GetServiceResponse(service=shown_service(find(store.services, "service", request.service_id)))

    async def ListServices(self, request: ListServicesRequest, context: Any) -> ListServicesResponse:
        """All services that fulfil the filters."""
        store = await self._fresh()
        return ListServicesResponse(services=map(shown_service, matching(store.services, request.filters)))

    async def CreateService(self, request: CreateServiceRequest, context: Any) -> CreateServiceResponse:
        """A new service; one without a name gets one made up.

        Raises InvalidArgument, NotFound (a reference), AlreadyExists (the name, a port), Unsupported.
        """
        if not request.HasField("spec"):
            raise InvalidArgument("the request has no service spec")
        asked = ServiceSpec()
        asked.CopyFrom(request.spec)
        if not asked.annotations.name:
            services = self._store.services
            asked.annotations.name = made_up_name(self._rng, lambda name: services.by_name(name) is not None)
        check_service(asked)
        spec = with_defaults(asked)
        id = new_id(self._rng)

        def change(tx: Transaction) -> Service:
            holder = tx.services.by_name(spec.annotations.name)
            if holder is not None:
                raise AlreadyExists(f"service name {spec.annotations.name!r} is taken by service {holder.id}")
            service = Service(id=id, spec=spec)
            check_no_cycle(tx, spec)
            resolve(tx, service.spec, claim)
            check_ports_free(tx, id, service.spec)
            service.spec_version.index = self._next_version()
            if mode_of(spec) in _JOBS:
                self._begin_run(service)
            tx.create(service)
            record(tx, service, "created", self._clock.now())
            return service

        with self._claims.open() as claim:
            await self._commit(change)
        created = self._store.services.get(id)
        assert created is not None
        return CreateServiceResponse(service=shown_service(created), warnings=self._warnings(created))

    async def UpdateService(self, request: UpdateServiceRequest, context: Any) -> UpdateServiceResponse:
        """Another spec for a service, or back to the one before.

        Raises OutOfSequence, NotFound, InvalidArgument, Unsupported (another name or mode), AlreadyExists (a port),
        FailedPrecondition.
        """
        rollback = request.rollback == UpdateServiceRequest.ROLLBACK_PREVIOUS
        if not rollback and not request.HasField("spec"):
            raise InvalidArgument("the request has no service spec")
        if not rollback:
            check_service(request.spec)

        def change(tx: Transaction) -> str:
            stored = find(tx.services, "service", request.service_id)
            check_version(f"service {stored.spec.annotations.name}", request.version, stored.meta.version)
            changed: Service | None
            if rollback:
                changed = self._rolled_back(tx, stored, request.rollback_to)
                require_ingress(tx, changed.spec, claim)
            else:
                changed = self._updated(tx, stored, request.spec, claim)
            if changed is not None:
                check_no_cycle(tx, changed.spec)
                check_ports_free(tx, stored.id, changed.spec)
                tx.update(changed)
                if changed.spec_version != stored.spec_version and not rollback:
                    record(tx, stored, "created", seconds(stored.meta.created_at))
                    record(tx, changed, "updated", self._clock.now())
            return stored.id

        with self._claims.open() as claim:
            id = await self._commit(change)
        after = self._store.services.get(id)
        if after is None:
            raise FailedPrecondition(f"service {request.service_id} was removed in the meantime")
        return UpdateServiceResponse(service=shown_service(after), warnings=self._warnings(after))

    async def RemoveService(self, request: RemoveServiceRequest, context: Any) -> RemoveServiceResponse:
        """Forget a service; the orchestrators then stop and delete its tasks."""

        def change(tx: Transaction) -> None:
            service = find(tx.services, "service", request.service_id)
            tx.remove(service)
            if (history := tx.histories.get(service.id)) is not None:
                tx.remove(history)

        await self._commit(change)
        return RemoveServiceResponse()

    async def ListServiceStatuses(
        self, request: ListServiceStatusesRequest, context: Any
    ) -> ListServiceStatusesResponse:
        """How many tasks shall be and are; no ids = all services. Services that do not exist are left out."""
        store = await self._fresh()
        asked = [store.services.get(id) for id in request.service_ids] if request.service_ids else store.services
        return ListServiceStatusesResponse(
            statuses=[
                status_of(service, store.tasks.by("service", service.id)) for service in asked if service is not None
            ]
        )

    def _warnings(self, service: Service) -> list[str]:
        """What a person had better know of a service that is stored."""
        return [*_warnings(service.spec), *too_small(self._store, service)]

    def _next_version(self) -> int:
        """For spec_version: larger than any before, although the entry's own index is not known yet."""
        return self._store.index + 1

    def _begin_run(self, service: Service) -> None:
        service.job_status.iteration.index += 1
        service.job_status.last_execution.CopyFrom(timestamp(self._clock.now()))

    def _updated(self, tx: Transaction, stored: Service, asked: ServiceSpec, claim: Claim) -> Service | None:
        """The service with the spec that was asked for; None when nothing would change."""
        name = stored.spec.annotations.name
        if asked.annotations.name != name:
            raise Unsupported(f"service {name} cannot be renamed to {asked.annotations.name!r}: create another one")
        if mode_of(asked) != mode_of(stored.spec):
            raise Unsupported(f"the mode of service {name} cannot be changed: it is {mode_of(stored.spec)}")
        spec = with_defaults(asked)
        if not spec.task.container.registry_auth:
            # Credentials are never shown, so a client that reads, changes and writes cannot give them again.
            spec.task.container.registry_auth = stored.spec.task.container.registry_auth
        resolve(tx, spec, claim)
        paused = stored.update_status.state in (UpdateStatus.STATE_PAUSED, UpdateStatus.STATE_ROLLBACK_PAUSED)
        if spec == stored.spec and not paused:
            return None
        changed = Service()
        changed.CopyFrom(stored)
        changed.ClearField("update_status")
        if spec == stored.spec:
            return changed
        changed.previous_spec.CopyFrom(stored.spec)
        changed.previous_spec_version.CopyFrom(stored.spec_version)
        changed.spec.CopyFrom(spec)
        changed.spec_version.index = self._next_version()
        if mode_of(spec) in _JOBS and spec.task != stored.spec.task:
            self._begin_run(changed)
        return changed

    def _rolled_back(self, tx: Transaction, stored: Service, number: int) -> Service:
        revision = revision_of(tx, stored, number) if number else None
        if revision is None and not stored.HasField("previous_spec"):
            raise FailedPrecondition(f"service {stored.spec.annotations.name} has no previous spec to go back to")
        changed = Service()
        changed.CopyFrom(stored)
        if revision is None:
            go_to(changed, stored.previous_spec, stored.previous_spec_version)
        else:
            go_to(changed, revision.spec, revision.spec_version)
        changed.previous_spec.CopyFrom(stored.spec)
        changed.previous_spec_version.CopyFrom(stored.spec_version)
        if mode_of(stored.spec) in _JOBS:
            changed.ClearField("update_status")
            self._begin_run(changed)
            return changed
        changed.ClearField("update_status")
        changed.update_status.state = UpdateStatus.STATE_ROLLBACK_STARTED
        changed.update_status.started_at.CopyFrom(timestamp(self._clock.now()))
        changed.update_status.message = "manually requested rollback" + (f" to revision {number}" if number else "")
        return changed


def check_no_cycle(tx: Transaction, spec: ServiceSpec) -> None:
    """Refuse services that wait for each other: none would ever start. Raises InvalidArgument."""
    own = spec.annotations.name
    for dependency in spec.depends_on:
        # Names that lead from the dependency to where the search is.
        paths = [[dependency.service]]
        seen = {dependency.service}
        while paths:
            path = paths.pop()
            other = tx.services.by_name(path[-1])
            for further in other.spec.depends_on if other is not None else ():
                if further.service == own:
                    way = " → ".join([*path, own])
                    raise InvalidArgument.of("dependency", dependency.service, f"it depends on {own} itself: {way}")
                if further.service not in seen:
                    seen.add(further.service)
                    paths.append([*path, further.service])


def _warnings(spec: ServiceSpec) -> list[str]:
    """What a spec says by itself."""
    warnings = [
        f"constraint {expression!r} has a key that no node has: no task will ever be scheduled"
        for expression in unknown_keys(spec.task.placement)
    ]
    if spec.task.placement.strategy == BINPACK and not fills_nodes(spec.task):
        warnings.append("strategy binpack: nothing is reserved, so no node is ever full; the tasks are spread")
    return warnings
