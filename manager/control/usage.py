"""Refuses to remove what services use, and names them. Pure but for the claims of writes in flight."""

from collections.abc import Sequence

from flota.manager.control.claims import Claims
from flota.rpc.errors import FailedPrecondition
from flota.v1.objects_pb2 import Service

_NAMED = 10


def check_unused(word: str, name: str, id: str, users: Sequence[Service], claims: Claims) -> None:
    """Raises FailedPrecondition when `users` is not empty, or a service that is being stored refers to `id`."""
    if users:
        names = sorted(service.spec.annotations.name for service in users)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        plural = "service" if len(names) == 1 else "services"
        raise FailedPrecondition(f"{word} {name} is in use by {plural} {', '.join(names[:_NAMED])}{more}")
    if claims.is_held(id):
        raise FailedPrecondition(f"{word} {name} is in use by a service that is being created or updated")
