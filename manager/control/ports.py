"""Published ports that another service has already: refused at once, so that nobody has to find out from a task.

Only what is so now is looked at. Two services that ask at the same time for one port are the allocator's to tell apart:
the second one's tasks then wait, and say why.
"""

from collections.abc import Iterator

from flota.manager.store import Transaction
from flota.rpc.errors import AlreadyExists
from flota.v1.objects_pb2 import Service
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import PortConfig

_INGRESS = PortConfig.PUBLISH_MODE_INGRESS


def check_ports_free(tx: Transaction, service_id: str, spec: ServiceSpec) -> None:
    """A port of the mesh is one service's, in every mode; ports in host mode may be several services', on other nodes.

    Raises AlreadyExists.
    """
    asked = [port for port in spec.endpoint.ports if port.published_port]
    if not asked:
        return
    for other in tx.services:
        if other.id == service_id:
            continue
        for theirs in _ports_of(other):
            for ours in asked:
                same = (ours.protocol, ours.published_port) == (theirs.protocol, theirs.published_port)
                if same and _INGRESS in (ours.publish_mode, theirs.publish_mode):
                    protocol = PortConfig.Protocol.Name(ours.protocol).removeprefix("PROTOCOL_").lower()
                    mode = "ingress" if theirs.publish_mode == _INGRESS else "host"
                    raise AlreadyExists(
                        f"port {ours.published_port}/{protocol} is already in use by service "
                        f"{other.spec.annotations.name}, in {mode} mode"
                    )


def _ports_of(service: Service) -> Iterator[PortConfig]:
    """Those it asks for and those it was given."""
    yield from service.spec.endpoint.ports
    yield from service.endpoint.ports
