"""The specs that services had: written with every change of a spec, read by `service history`, `diff` and `rollback`.

A revision is one spec with the version that tasks made from it carry. Going back (by hand or by a failed update) makes
no new revision: the service has the older one's spec and version again, so tasks that are left of it count as current.
"""

from typing import Any

from flota.manager.clock import timestamp
from flota.manager.control.base import ControlBase
from flota.manager.control.lookup import find
from flota.manager.control.shown import shown_history
from flota.manager.store import Transaction
from flota.rpc.errors import NotFound
from flota.v1.control_pb2 import GetServiceHistoryRequest, GetServiceHistoryResponse
from flota.v1.objects_pb2 import Service, ServiceHistory, ServiceRevision
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import Version

# Revisions kept for each service.
KEPT = 10
# Bytes of all of them; older ones go earlier when specs are large.
MOST_BYTES = 400_000


class Histories(ControlBase):
    """The call about histories."""

    async def GetServiceHistory(self, request: GetServiceHistoryRequest, context: Any) -> GetServiceHistoryResponse:
        """The kept revisions of a service, oldest first. Raises NotFound."""
        store = await self._fresh()
        service = find(store.services, "service", request.service_id)
        history = store.histories.get(service.id)
        if history is None:
            history = ServiceHistory(id=service.id)
            _append(history, service, "created", service.meta.created_at.ToNanoseconds() / 1e9)
        return GetServiceHistoryResponse(history=shown_history(history))


def record(tx: Transaction, service: Service, why: str, now: float) -> None:
    """Keep the service's spec as a revision, unless it is one already. `now` is wall time in seconds."""
    stored = tx.histories.get(service.id)
    if stored is not None and any(each.spec_version == service.spec_version for each in stored.revisions):
        return
    history = ServiceHistory(id=service.id)
    if stored is not None:
        history.CopyFrom(stored)
    _append(history, service, why, now)
    while len(history.revisions) > KEPT or (len(history.revisions) > 2 and history.ByteSize() > MOST_BYTES):
        del history.revisions[0]
    if stored is None:
        tx.create(history)
    else:
        tx.update(history)


def _append(history: ServiceHistory, service: Service, why: str, now: float) -> None:
    number = history.revisions[-1].number + 1 if history.revisions else 1
    history.revisions.append(
        ServiceRevision(
            number=number, spec=service.spec, spec_version=service.spec_version, since=timestamp(now), why=why
        )
    )


def revision_of(tx: Transaction, service: Service, number: int) -> ServiceRevision:
    """The service's revision with this number. Raises NotFound, with the numbers there are."""
    history = tx.histories.get(service.id)
    kept = list(history.revisions) if history is not None else []
    for revision in kept:
        if revision.number == number:
            return revision
    there = f"kept are {kept[0].number} to {kept[-1].number}" if kept else "none is kept"
    raise NotFound(f"service {service.spec.annotations.name} has no revision {number}: {there}")


def go_to(service: Service, spec: ServiceSpec, version: Version) -> None:
    """Give the service another of its specs."""
    service.spec.CopyFrom(spec)
    service.spec_version.CopyFrom(version)
