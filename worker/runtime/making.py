"""Making one container: from images' layers to the moment before its program runs.

    root and files ──► the spec's mounts, the image's volumes ──► config.json ──► conmon ──► crun create

A few at a time, but none waits for another's volumes. Leaves what was half made to whoever asked for it: `Runtime`
removes it. Never says whether a container may be made, and follows none.
"""

import asyncio
import json
from concurrent.futures import Executor
from dataclasses import dataclass, field

from flota.v1.task_states import task_name
from flota.v1.types_pb2 import Mount
from flota.worker.logs import chain
from flota.worker.logs.rotation import Rule
from flota.worker.runtime import bundle, devices, inside, monitor, mounts, placing, root
from flota.worker.runtime.accounts import Account
from flota.worker.runtime.bundle import HostMount
from flota.worker.runtime.cgroups import Cgroups
from flota.worker.runtime.container import BadContainer, Container
from flota.worker.runtime.machine import Machine
from flota.worker.runtime.monitor import Record
from flota.worker.runtime.oci import Program
from flota.worker.runtime.root import Places
from flota.worker.volumes import Volumes, fill

# More at once only wait for each other: most of a creation is the kernel's mount and cgroup work.
AT_ONCE = 4
_CREATE_LIMIT = 60.0


@dataclass(frozen=True)
class Maker:
    """What it takes to make containers on this machine. `conmon` is a path; `threads` are for what may block."""

    machine: Machine
    conmon: str
    program: Program
    cgroups: Cgroups
    mounter: mounts.Mounter
    volumes: Volumes
    threads: Executor
    _turns: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def make(self, container: Container, places: Places) -> Record:
        """Make a container in `places`. Raises BadContainer, ContainerError, OSError; what was made is left then."""
        async with self._turns:
            account, own = await self.mounter.call(root.assemble, container, places, self.mounter)
            if not container.task.spec.container.mounts and not container.image.volumes:
                return await self._finish(container, places, account, own, [])
        # Volumes may take their time: copying what an image has, mounting from a server.
        wanted = await self._wanted_mounts(container, places)
        async with self._turns:
            return await self._finish(container, places, account, own, wanted)

    async def _finish(
        self, container: Container, places: Places, account: Account, own: list[HostMount], wanted: list[HostMount]
    ) -> Record:
        loop, placed = asyncio.get_running_loop(), placing.arrange(wanted, own)
        await loop.run_in_executor(self.threads, self._write_bundle, container, places, account, placed)
        spec = container.task.spec.container
        order = monitor.Order(
            container.id, task_name(container.task), places.bundle, places.log, spec.tty, spec.open_stdin, container.log
        )
        if container.log.kept:
            await loop.run_in_executor(self.threads, _prepare_log, container, places)
        record = await monitor.launch(order, self.conmon, self.program, self._place, limit=_CREATE_LIMIT)
        record.write(places.bundle)
        return record

    def _write_bundle(self, container: Container, places: Places, account: Account, placed: list[HostMount]) -> None:
        root.check_program(container, places.rootfs, placed)
        found = devices.look(container.task.spec.container.devices)
        config = bundle.configuration(container, account, placed, places.rootfs, self.machine, found)
        places.config.write_text(json.dumps(config))

    async def _place(self, monitor_pid: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self.threads, self.cgroups.place_monitor, monitor_pid)

    async def _wanted_mounts(self, container: Container, places: Places) -> list[HostMount]:
        """The spec's mounts, and a volume for each place the image wants one at."""
        spec, loop = container.task.spec.container, asyncio.get_running_loop()
        result = []
        for number, mount in enumerate(spec.mounts):
            if mount.type == Mount.TYPE_BIND:
                result.append(await loop.run_in_executor(self.threads, placing.bind, mount))
            elif mount.type == Mount.TYPE_TMPFS:
                result.append(placing.tmpfs(mount))
            else:
                result.append(await self._volume(container.id, mount, places, number))
        taken = {one.target for one in result}
        for number, path in enumerate(container.image.volumes, len(result)):
            if placing.target(path) not in taken:
                mount = Mount(type=Mount.TYPE_VOLUME, target=path)
                result.append(await self._volume(container.id, mount, places, number))
        return result

    async def _volume(self, container_id: str, mount: Mount, places: Places, number: int) -> HostMount:
        content = inside.resolve(places.rootfs, placing.target(mount.target))
        if mount.source:
            data = await self.volumes.use(container_id, mount, content)
        elif mount.HasField("volume_driver"):
            raise BadContainer(f"invalid mount at {mount.target}: driver options need a volume with a name")
        else:
            data = places.state / "volumes" / str(number) / "_data"
            there = data.exists()
            data.mkdir(parents=True, exist_ok=True)
            data.chmod(0o755)
            if not mount.volume_nocopy and not there:
                await fill(content, data)
        if not mount.volume_subpath:
            return placing.directory(mount, str(data))
        part = places.bundle / "mounts" / str(number)
        try:
            await self.mounter.call(mounts.bind_inside, data, mount.volume_subpath, part)
        except OSError as error:
            raise BadContainer(
                f"invalid volume-subpath {mount.volume_subpath!r} of volume {mount.source}: {error.strerror}"
            ) from None
        return placing.directory(mount, str(part))


def _prepare_log(container: Container, places: Places) -> None:
    log = container.log
    if container.again:
        chain.begin(places.log, log.size, log.files - 1)
    if log.files > 1:
        Rule(log.size, log.files, log.compress).write(places.bundle)
