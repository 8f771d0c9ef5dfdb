"""What task controllers work with: the node's runtime, images and network as they see them, and what the node is.

Protocols, because a controller's rules are tested without a kernel (tests/unit/worker).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from flota.overlay import Sandbox
from flota.v1.objects_pb2 import Task
from flota.worker.images.config import ImageConfig
from flota.worker.runtime.container import Container, Exit, Running
from flota.worker.runtime.processes import Completed
from flota.worker.tasks.payloads import Payloads
from flota.worker.tasks.template import NodeFacts


class Image(Protocol):
    """An image on this node."""

    @property
    def id(self) -> str:
        """sha256:… of its configuration."""
        ...

    @property
    def config(self) -> ImageConfig:
        """What it says of its containers."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """Directories of the layer store, lowest first."""
        ...


class Images(Protocol):
    """worker/images."""

    async def provide(self, reference: str, credentials: Callable[[], Awaitable[str]] = ...) -> Image:
        """The one that is here, else the registry's, which is shown `credentials`.

        Raises ImageNotFound or another FlotaError.
        """
        ...

    def here(self, reference: str) -> str:
        """The id of one that is here. Raises ImageNotFound."""
        ...

    def hold(self, user: str, image_id: str) -> None:
        """`user` needs the image: it is not removed."""
        ...

    def release(self, user: str) -> None:
        """`user` needs no image any longer."""
        ...


class Containers(Protocol):
    """worker/runtime."""

    def expect(self) -> None: ...
    async def create(self, container: Container) -> None: ...
    async def launch(self, container_id: str) -> Running: ...
    async def wait(self, container_id: str) -> Exit: ...
    async def signal(self, container_id: str, number: int) -> None: ...
    async def execute(self, container_id: str, argv: Sequence[str], *, limit: float) -> Completed: ...
    async def edit_hosts(self, container_id: str, change: Callable[[str], str]) -> None: ...
    async def remove(self, container_id: str, *, keep_log: bool = False, keep_files: bool = False) -> None: ...


class Networks(Protocol):
    """overlay."""

    async def attach(self, task: Task) -> Sandbox: ...
    async def close(self, task_id: str) -> None: ...
    async def detach(self, task_id: str) -> None: ...


async def _no_credentials(task_id: str) -> str:
    return ""


@dataclass(frozen=True)
class Parts:
    """One node's, shared by all controllers."""

    images: Images
    containers: Containers
    networks: Networks
    payloads: Payloads
    node: NodeFacts
    # Registry credentials for a task's image that managers' helpers give; "" = they have none. Raises nothing.
    credentials: Callable[[str], Awaitable[str]] = _no_credentials
    # Whether a container may live again (worker/containers): it keeps its files, its image, its place among the users
    # of volumes.
    again: bool = False
