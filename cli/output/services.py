"""The table of services: `service ls`, `stack services`. Columns and words are Docker's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flota.cli.output.human import natural, short_id, short_image
from flota.cli.output.tables import Column, print_rows
from flota.cli.output.tasks import protocol_word
from flota.v1.control_pb2 import ServiceStatus
from flota.v1.objects_pb2 import Service
from flota.v1.types_pb2 import PortConfig

COLUMNS = (
    Column("ID", "ID"),
    Column("Name", "NAME"),
    Column("Mode", "MODE"),
    Column("Replicas", "REPLICAS"),
    Column("Image", "IMAGE"),
    Column("Ports", "PORTS"),
)


def print_services(
    services: Iterable[Service],
    statuses: Mapping[str, ServiceStatus],
    form: str | None = None,
    quiet: bool = False,
    no_trunc: bool = False,
) -> None:
    """Print `services` by name; `statuses` by their ids. Raises BadFlag for a bad template."""
    ordered = sorted(services, key=lambda service: natural(service.spec.annotations.name))
    rows = [_row(service, statuses.get(service.id, ServiceStatus()), no_trunc) for service in ordered]
    print_rows(COLUMNS, rows, form, quiet)


def _row(service: Service, status: ServiceStatus, no_trunc: bool) -> dict[str, str]:
    return {
        "ID": short_id(service.id, no_trunc),
        "Name": service.spec.annotations.name,
        "Mode": mode_words(service),
        "Replicas": replicas(service, status),
        "Image": short_image(service.spec.task.container.image, no_trunc),
        "Ports": ports_text(service.endpoint.ports),
    }


def mode_words(service: Service) -> str:
    """replicated, global, replicated job or global job"""
    return (service.spec.WhichOneof("mode") or "replicated").replace("_", " ")


def replicas(service: Service, status: ServiceStatus) -> str:
    """3/3; with a maximum per node, and with a job's progress, these behind it."""
    text = f"{status.running_tasks}/{status.desired_tasks}"
    mode = service.spec.WhichOneof("mode")
    if mode == "replicated_job":
        return f"{text} ({status.completed_tasks}/{service.spec.replicated_job.total_completions} completed)"
    if mode == "global_job":
        return f"{text} ({status.completed_tasks}/{status.desired_tasks + status.completed_tasks} completed)"
    if service.spec.stopped:
        return f"{text} (stopped)"
    most = service.spec.task.placement.max_replicas
    return f"{text} (max {most} per node)" if most else text


@dataclass
class _Range:
    """Consecutive published ports, to consecutive targets or all to one."""

    protocol: str
    published: tuple[int, int]
    target: tuple[int, int]

    def takes(self, port: PortConfig) -> bool:
        """Grow by `port` if it is the next one."""
        if protocol_word(port) != self.protocol or port.published_port != self.published[1] + 1:
            return False
        same = port.target_port == self.target[0] == self.target[1]
        following = port.target_port == self.target[1] + 1
        alone = self.published[0] == self.published[1]
        # A range goes one way: its targets rise with it, or they are one.
        if not (same or (following and (alone or self.target[0] != self.target[1]))):
            return False
        self.published = self.published[0], port.published_port
        self.target = self.target[0], port.target_port
        return True

    def __str__(self) -> str:
        return f"*:{_span(*self.published)}->{_span(*self.target)}/{self.protocol}"


def _span(first: int, last: int) -> str:
    return f"{first}-{last}" if last > first else str(first)


def ports_text(ports: Iterable[PortConfig]) -> str:
    """*:8080->80/tcp, *:3000-3005->3000-3005/tcp: what the ingress mesh publishes."""
    ranges: list[_Range] = []
    for port in sorted(ports, key=lambda port: (protocol_word(port), port.published_port)):
        if port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS and not (ranges and ranges[-1].takes(port)):
            published, target = port.published_port, port.target_port
            ranges.append(_Range(protocol_word(port), (published, published), (target, target)))
    return ", ".join(map(str, ranges))
