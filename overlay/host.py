"""The network `host`: a task in the node's own network namespace, with the node's names and addresses."""

from pathlib import Path

from flota.overlay.dns.upstream import HostResolver
from flota.overlay.sandbox import Sandbox
from flota.v1.network_options import HOST
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import PortConfig

_HOSTS = Path("/etc/hosts")
_FALLBACK = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]


def is_on_host(task: Task) -> bool:
    """Whether the task has no network namespace of its own."""
    return any(attachment.network_id == HOST for attachment in task.networks)


def host_sandbox(task: Task, node: HostResolver) -> Sandbox:
    """What the task gets; `node` is what the node's resolv.conf says.

    Its ports in host mode are those its program listens on: nothing has to be done for them.
    """
    dns = task.spec.container.dns
    search = " ".join(dns.search or node.search)
    options = " ".join(dns.options or node.options)
    lines = [f"nameserver {server}" for server in (dns.nameservers or node.nameservers)]
    lines += [*([f"search {search}"] if search else []), *([f"options {options}"] if options else [])]
    try:
        hosts = _HOSTS.read_text().splitlines()
    except OSError:
        hosts = _FALLBACK
    ports = (port for port in task.endpoint.ports if port.publish_mode == PortConfig.PUBLISH_MODE_HOST)
    return Sandbox(
        netns=None,
        resolv_conf="".join(f"{line}\n" for line in lines),
        hosts=(*hosts, *task.spec.container.hosts),
        ports=tuple(ports),
    )
