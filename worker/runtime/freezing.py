"""Containers whose processes stand still: frozen by the OCI runtime, through the kernel's freezer.

A frozen process takes a signal only when it is thawed, so whoever ends a container thaws it (`thaw`), and whoever runs
something in one waits until it is (`thawed`). What is frozen says the kernel, also to a worker that starts again.
"""

import asyncio
from collections.abc import Iterable

from flota.worker.runtime import processes
from flota.worker.runtime.cgroups import Cgroups
from flota.worker.runtime.container import ContainerError
from flota.worker.runtime.oci import Program

# Seconds: a process stops at its next way out of the kernel, which may be held up by a disk or a server.
_STOP_LIMIT = 10.0
_STOP_PAUSE = 0.002


class Freezer:
    """See the module's docstring. All methods on the event loop."""

    def __init__(self, program: Program, cgroups: Cgroups) -> None:
        self._program = program
        self._cgroups = cgroups
        # Set when it is thawed.
        self._frozen: dict[str, asyncio.Event] = {}

    def adopt(self, container_ids: Iterable[str]) -> None:
        """Know again which of these an earlier worker has frozen."""
        for one in container_ids:
            if self._cgroups.is_frozen(one):
                self._frozen[one] = asyncio.Event()

    def is_frozen(self, container_id: str) -> bool:
        """Whether it stands still."""
        return container_id in self._frozen

    async def freeze(self, container_id: str) -> None:
        """Let nothing of it run: when this returns, nothing does. Raises ContainerError; it goes on then."""
        if container_id in self._frozen:
            return
        self._frozen[container_id] = asyncio.Event()
        try:
            await self._run("pause", container_id)
            await self._stopped(container_id)
        except BaseException:
            self.forget(container_id)
            raise

    async def _stopped(self, container_id: str) -> None:
        """crun says what is to be so on v2, and does not wait until it is."""
        try:
            async with asyncio.timeout(_STOP_LIMIT):
                while True:
                    if self._cgroups.stands_still(container_id):
                        return
                    await asyncio.sleep(_STOP_PAUSE)
        except TimeoutError:
            await self._run("resume", container_id)
            raise ContainerError(
                f"container {container_id} could not be paused: one of its processes did not stop "
                f"within {_STOP_LIMIT:.0f} s (it may wait for a disk or a server)"
            ) from None

    async def thaw(self, container_id: str) -> None:
        """Let it go on; nothing happens if it does. Raises ContainerError."""
        if container_id in self._frozen:
            await self._run("resume", container_id)
            self.forget(container_id)

    async def thawed(self, container_id: str) -> None:
        """Until it does not stand still."""
        while (frozen := self._frozen.get(container_id)) is not None:
            await frozen.wait()

    def forget(self, container_id: str) -> None:
        """It is gone, or goes on."""
        if (frozen := self._frozen.pop(container_id, None)) is not None:
            frozen.set()

    async def _run(self, verb: str, container_id: str) -> None:
        done = await processes.run(self._program.arguments(verb, container_id))
        if done.code != 0:
            raise ContainerError(f"{self._program.name} could not {verb} container {container_id}: {done.output}")
