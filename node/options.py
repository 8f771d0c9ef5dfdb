"""What the person who starts the daemon decides, and what is allowed there."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flota.node.places import CannotStart

_REGISTRY = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")


@dataclass(frozen=True)
class DaemonOptions:
    """What the person who starts the daemon decides. Addresses are host:port; empty = none."""

    state_directory: Path = Path("/var/lib/flota")
    run_directory: Path = Path("/run/flota")
    # Containers live in control groups below this one.
    cgroup_parent: str = "/flota"
    manager_metrics: str = "0.0.0.0:9323"
    worker_metrics: str = "0.0.0.0:9324"
    engine_labels: Mapping[str, str] = field(default_factory=dict)
    # "gpu=2" or "gpu=UUID1"
    generic_resources: Sequence[str] = ()
    # host[:port] of registries that may speak plain HTTP.
    insecure_registries: Sequence[str] = ()
    # host:port for Docker's clients on other machines, with ca.pem, cert.pem and key.pem in a directory; empty = none.
    docker_listen: str = ""
    docker_tls_directory: Path = Path("/etc/flota/docker")
    # Leads to RUN/docker.sock: where Docker's tools look without being told, /var/run/docker.sock.
    docker_socket: Path | None = None
    # On a manager: the helper (docker-credential-NAME) for a registry, host[:port].
    credential_helpers: Mapping[str, str] = field(default_factory=dict)
    # Seconds after which an image that no task needs goes; 0 = never.
    image_max_age: float = 0.0
    # Per cent of the disk that are full before unused images go, and when that ends; 0 = never.
    image_disk: tuple[int, int] = (85, 80)

    def check(self) -> None:
        """Raises CannotStart that names the option, its value and what is allowed."""
        for option, directory in (("--state-dir", self.state_directory), ("--run-dir", self.run_directory)):
            if not directory.is_absolute():
                raise CannotStart(f"invalid {option} {str(directory)!r}: an absolute path is needed")
        if not self.cgroup_parent.startswith("/") or ".." in self.cgroup_parent.split("/"):
            raise CannotStart(f"invalid --cgroup-parent {self.cgroup_parent!r}: a path like /flota is needed")
        for option, address in (("--manager-metrics", self.manager_metrics), ("--worker-metrics", self.worker_metrics)):
            if address and not _is_address(address):
                raise CannotStart(f"invalid {option} {address!r}: host:port is needed, or nothing for no metrics")
        if self.docker_socket is not None and not self.docker_socket.is_absolute():
            raise CannotStart(f"invalid --docker-socket {str(self.docker_socket)!r}: an absolute path is needed")
        if self.docker_listen:
            if not _is_address(self.docker_listen):
                raise CannotStart(f"invalid --docker-listen {self.docker_listen!r}: host:port is needed")
            for name in ("ca.pem", "cert.pem", "key.pem"):
                if not (self.docker_tls_directory / name).is_file():
                    raise CannotStart(
                        f"invalid --docker-tls-dir {str(self.docker_tls_directory)!r}: there is no {name} in it "
                        "(--docker-listen needs ca.pem, cert.pem and key.pem)"
                    )
        for key in self.engine_labels:
            if not key:
                raise CannotStart("invalid --label: it has no key (KEY=VALUE is needed)")
        for resource in self.generic_resources:
            if not re.fullmatch(r"[^=,\s]+=[^=,\s]+", resource):
                raise CannotStart(
                    f"invalid --generic-resource {resource!r}: KIND=NUMBER or KIND=NAME is needed, such as gpu=2"
                )
        for host, helper in self.credential_helpers.items():
            if not _REGISTRY.fullmatch(host) or not re.fullmatch(r"[A-Za-z0-9_.-]+", helper):
                raise CannotStart(
                    f"invalid --credential-helper {f'{host}={helper}'!r}: HOST[:PORT]=NAME is needed, for the program "
                    "docker-credential-NAME"
                )
        high, low = self.image_disk
        if not 0 <= low <= high <= 100:
            raise CannotStart(
                f"invalid --image-disk '{high}:{low}': HIGH:LOW in per cent is needed, such as 85:80, or 0 for never"
            )
        for registry in self.insecure_registries:
            if not _REGISTRY.fullmatch(registry):
                raise CannotStart(f"invalid --insecure-registry {registry!r}: HOST[:PORT] is needed")


def _is_address(text: str) -> bool:
    port = text.rpartition(":")[2]
    return ":" in text and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
