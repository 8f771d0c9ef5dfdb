"""A task's network namespace as the runtime sees it."""

from dataclasses import dataclass
from pathlib import Path

from flota.v1.types_pb2 import PortConfig


@dataclass(frozen=True)
class Sandbox:
    """What `Network.attach` made. The container joins `netns` (None: it is in the node's) and gets these files.

    `resolv_conf` is the content of /etc/resolv.conf; `hosts` are the lines of /etc/hosts ("ADDRESS NAME…"),
    localhost first, ContainerSpec.hosts last. `ports` are the host-mode ports that the task has on this node, with
    those filled in that were not chosen: what its status reports.
    """

    netns: Path | None
    resolv_conf: str
    hosts: tuple[str, ...]
    ports: tuple[PortConfig, ...] = ()
