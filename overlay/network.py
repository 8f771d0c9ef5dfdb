"""Network: this node's networks, as the worker drives them."""

from collections.abc import Iterable
from pathlib import Path

from flota.overlay.sandbox import Sandbox
from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.objects_pb2 import Task


class Network:
    """The networks of one node. One instance per worker process; all methods on the event loop."""

    def __init__(
        self,
        run_directory: Path,
        local_address: str,
        vxlan_port: int,
        node_id: str,
        *,
        host_resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        """`run_directory` is RUN (namespaces go to RUN/netns); `local_address` the VXLAN endpoint's own address."""

    async def start(self) -> None:
        """Begin to serve. Kernel state of earlier runs stays as it is until `adopt`."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Stop serving names. Namespaces and links of attached tasks stay: containers outlive the worker."""
        raise NotImplementedError

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        """Take over networks, peers and services (other kinds are skipped). `complete` replaces all known ones.

        Names follow at once; links and forwarding entries within milliseconds, in the background.
        """
        raise NotImplementedError

    async def attach(self, task: Task) -> Sandbox:
        """Make (or find) the task's namespace with its interfaces. Raises OverlayError; leaves nothing half made."""
        raise NotImplementedError

    async def detach(self, task_id: str) -> None:
        """Remove the task's namespace and interfaces. Unknown ids are no error."""
        raise NotImplementedError

    async def adopt(self, task_ids: set[str]) -> None:
        """After a restart: serve names to these tasks again, remove namespaces and links of all others."""
        raise NotImplementedError
