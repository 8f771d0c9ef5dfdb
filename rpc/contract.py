"""What proto/ says of every call: who may make it, where it is answered, whether it streams.

Read from the `authorization` option of each method (auth.proto); nothing about permissions is written anywhere else.
"""

from dataclasses import dataclass
from functools import cache

from flota.v1 import (
    ca_pb2,
    checks_pb2,
    containers_pb2,
    control_pb2,
    dispatcher_pb2,
    local_pb2,
    logs_pb2,
    raft_pb2,
    tasks_pb2,
    volumes_pb2,
)
from flota.v1.auth_pb2 import Authorization, Route, authorization

_FILES = (
    ca_pb2,
    checks_pb2,
    containers_pb2,
    control_pb2,
    dispatcher_pb2,
    local_pb2,
    logs_pb2,
    raft_pb2,
    tasks_pb2,
    volumes_pb2,
)


@dataclass(frozen=True)
class Method:
    """One RPC. `path` is what stands on the wire: /flota.v1.Control/GetNode."""

    path: str
    callers: frozenset[int]
    to_leader: bool
    client_streams: bool
    server_streams: bool

    @property
    def only_reads(self) -> bool:
        """It changes nothing, so it may be asked again when an answer was lost."""
        return self.path.rpartition("/")[2].startswith(("Get", "List"))


@cache
def methods() -> dict[str, Method]:
    """Every RPC of flota by its path."""
    found: dict[str, Method] = {}
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule: Authorization = method.GetOptions().Extensions[authorization]
                path = f"/{service.full_name}/{method.name}"
                found[path] = Method(
                    path=path,
                    callers=frozenset(rule.callers),
                    to_leader=rule.route == Route.ROUTE_LEADER,
                    client_streams=method.client_streaming,
                    server_streams=method.server_streaming,
                )
    return found


def service_paths(*services: str) -> list[str]:
    """Paths of all methods of these services: service_paths("Control", "Logs")."""
    wanted = tuple(f"/flota.v1.{service}/" for service in services)
    return [path for path in methods() if path.startswith(wanted)]
