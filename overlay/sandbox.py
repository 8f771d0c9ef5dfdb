"""A task's network namespace as the runtime sees it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sandbox:
    """What `Network.attach` made. The container joins `netns` and gets these files.

    `resolv_conf` is the content of /etc/resolv.conf; `hosts` are the lines of /etc/hosts ("ADDRESS NAME…"),
    localhost first, ContainerSpec.hosts last.
    """

    netns: Path
    resolv_conf: str
    hosts: tuple[str, ...]
