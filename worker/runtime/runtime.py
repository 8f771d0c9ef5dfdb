"""Runtime: the containers of one node, from images' layers to exit codes.

    create   everything up to the moment before the program runs (making)
    launch   one byte into crun's fifo
    wait     conmon's pidfd, then its exit file
    remove   SIGKILL to the first process (its PID namespace dies with it), then groups, mounts and files

A container outlives the process that made it: `stop` touches none, and `adopt` finds them all again. What is on disk
is the truth (RUN/tasks/ID, STATE/tasks/ID, see root); what is in memory only follows it.

Never decides when a container is to start or to end, and knows nothing of images, networks and health checks.
"""

import asyncio
import json
import logging
import os
import re
import resource
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from flota.v1.tasks_pb2 import TaskStats
from flota.v1.types_pb2 import ResourceRequirements
from flota.worker.logs.rotation import Rotation, Rule
from flota.worker.runtime import limits, machine, mounts, moves, root
from flota.worker.runtime.cgroups import Cgroups
from flota.worker.runtime.commands import CannotRun, Command
from flota.worker.runtime.container import (
    BadContainer,
    Container,
    ContainerError,
    ContainerState,
    Exit,
    Phase,
    Running,
)
from flota.worker.runtime.executing import Execution, process_of
from flota.worker.runtime.freezing import Freezer
from flota.worker.runtime.machine import RuntimeUnavailable
from flota.worker.runtime.making import AT_ONCE, Maker
from flota.worker.runtime.monitor import Monitored, Record
from flota.worker.runtime.oci import Program
from flota.worker.runtime.processes import Completed, to_the_end
from flota.worker.runtime.root import Places
from flota.worker.runtime.usage import Gauges
from flota.worker.volumes import Volumes

log = logging.getLogger(__name__)
T = TypeVar("T")

_INIT = "catatonit"
_END_LIMIT = 10.0
_LEAVE_LIMIT = 5.0
_LEAVE_PAUSE = 0.005
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Runtime:
    """The containers of this node. One instance per worker; all methods on the event loop."""

    def __init__(
        self, *, run_directory: Path, state_directory: Path, layers_directory: Path, cgroup_parent: str
    ) -> None:
        """`run_directory` is RUN, `state_directory` STATE; images' layers are directories in `layers_directory`."""
        self._bundles = run_directory.absolute() / "tasks"
        self._states = state_directory.absolute() / "tasks"
        # Roots of containers that do not run, while somebody looks at them.
        self._looked_at = run_directory.absolute() / "looked-at"
        self._skeleton = state_directory.absolute() / "skeleton"
        self._program = Program(run_directory.absolute() / "runtime")
        self._layers = layers_directory.absolute()
        self._cgroup_parent = cgroup_parent
        self._containers: dict[str, Monitored] = {}
        # A lock is there as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._stirring: asyncio.Future[None] | None = None
        self._rotation = Rotation()
        self._moves_are_free = False
        self.volumes = Volumes(state_directory.absolute() / "volumes")

    async def start(self) -> None:
        """Find what is needed on this machine. Raises RuntimeUnavailable."""
        conmon = shutil.which("conmon")
        if conmon is None:
            raise RuntimeUnavailable("conmon is not installed: apt-get install conmon")
        self._machine = machine.look(self._cgroup_parent, shutil.which(_INIT) or "")
        self._cgroups = Cgroups(self._machine)
        self._freezer = Freezer(self._program, self._cgroups)
        await self._program.find()
        # Two descriptors for each container are more than a process may have as a rule.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for directory in (self._bundles, self._states, self._program.state_root):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._mounter = mounts.Mounter(self._layers)
        # Creations wait for the kernel, removals keep processors busy.
        self._threads = ThreadPoolExecutor(AT_ONCE + (os.cpu_count() or 1), "runtime")
        await self._in_thread(self._cgroups.prepare)
        self._machine = machine.with_swap_known(self._machine)
        self._gauges = Gauges(self._machine)
        self._maker = Maker(
            self._machine, conmon, self._program, self._cgroups, self._mounter, self.volumes, self._threads
        )
        self._moves_are_free = await self._in_thread(moves.free)
        await self._in_thread(root.make_skeleton, self._skeleton)
        await self._in_thread(_let_go, self._looked_at)
        await self._rotation.start()

    async def stop(self) -> None:
        """Follow the containers no longer. They run on, and so do their monitors."""
        for one in self._containers.values():
            one.close()
        self._containers.clear()
        await self._rotation.stop()
        await self._in_thread(self._cgroups.close)
        self._mounter.stop()
        self._threads.shutdown(wait=True)
        self._program.close()

    @property
    def name(self) -> str:
        """The OCI runtime in use: crun or runc."""
        return self._program.name

    @property
    def version(self) -> str:
        """Its version."""
        return self._program.version

    def log_file(self, container_id: str) -> Path:
        """Where conmon writes what the container says."""
        return self._places(container_id).log

    async def create(self, container: Container) -> None:
        """Make a container and everything it needs, up to the moment before its program runs.

        Raises BadContainer when trying again would not help, else ContainerError; nothing is left then.
        """
        if not _ID.fullmatch(container.id):
            raise BadContainer(f"invalid container id {container.id!r}: letters, digits, _ . and -")
        async with self._locked(container.id):
            if container.id in self._containers or (not container.again and self._places(container.id).state.exists()):
                raise ContainerError(f"container {container.id} exists already")
            self.expect()
            try:
                record = await self._maker.make(container, self._places(container.id))
            except BaseException as error:
                try:
                    await to_the_end(self._undo(container.id, keep_files=container.again))
                except ContainerError:
                    log.exception("what was made of container %s is left", container.id)
                if isinstance(error, OSError):
                    raise ContainerError(f"the container could not be made: {error}") from None
                raise
            self._follow(container.id, record)

    def expect(self) -> None:
        """A container is about to be made: have the kernel ready for it. Cheap, may be called at any time."""
        if not self._moves_are_free and (self._stirring is None or self._stirring.done()):
            self._stirring = asyncio.get_running_loop().run_in_executor(self._threads, self._cgroups.stir)

    async def launch(self, container_id: str) -> Running:
        """Let a created container's program run. Raises ContainerError."""
        one = self._known(container_id)
        await self._program.start(container_id)
        return Running(one.record.pid, container_id)

    def runs(self, container_id: str) -> bool:
        """Whether it is there and has not ended: what it says may be said yet."""
        one = self._containers.get(container_id)
        return one is not None and not one.has_ended

    async def wait(self, container_id: str) -> Exit:
        """Until the container has ended, whoever started it. Raises ContainerError if it is not known."""
        return await asyncio.shield(self._known(container_id).exit)

    async def signal(self, container_id: str, number: int) -> None:
        """Send a signal to the container's first process, which goes on if it was paused. No error if it has ended."""
        one = self._containers.get(container_id)
        if one is not None:
            one.signal(number)
            try:
                await self._freezer.thaw(container_id)
            except ContainerError:
                # It may have ended by the signal already.
                if self._cgroups.is_frozen(container_id):
                    raise

    def is_paused(self, container_id: str) -> bool:
        """Whether all its processes stand still."""
        return self._freezer.is_frozen(container_id) and self.runs(container_id)

    async def pause(self, container_id: str) -> None:
        """Let nothing in it run, until `resume`, or until it is sent a signal. Raises ContainerError."""
        if not self.runs(container_id) or not self._program.started(container_id):
            raise ContainerError(f"container {container_id} does not run")
        await self._freezer.freeze(container_id)

    async def resume(self, container_id: str) -> None:
        """Let it go on. Raises ContainerError."""
        await self._freezer.thaw(container_id)

    async def update(self, container_id: str, wanted: ResourceRequirements) -> None:
        """Give one that runs other limits, else just see. Raises BadContainer (they make no sense), ContainerError."""
        try:
            resources = limits.changed_resources(wanted, self._machine.ability)
        except ValueError as error:
            raise BadContainer(str(error)) from None
        if not self.runs(container_id):
            return
        await self._program.update(container_id, resources, self._places(container_id).bundle)
        if not wanted.pids_limit:
            try:
                await self._in_thread(self._cgroups.allow_processes, container_id)
            except OSError as error:
                raise ContainerError(f"the limit of processes could not be lifted: {error}") from None

    async def execute(self, container_id: str, argv: Sequence[str], *, limit: float) -> Completed:
        """Run a command in the container, as the container's user and with its environment; not while it is paused.

        Raises TimeoutError (the command is killed), ContainerError when the container does not run.
        """
        await self._freezer.thawed(container_id)
        known, places = self._known(container_id), self._places(container_id)
        try:
            if not known.has_ended:
                process = json.loads(places.config.read_text())["process"]
                process |= {"args": list(argv), "terminal": False}
                return await self._program.execute(container_id, process, places.bundle, limit)
        except FileNotFoundError:
            # Removed meanwhile.
            pass
        raise ContainerError(f"container {container_id} does not run")

    @asynccontextmanager
    async def command(self, container_id: str, wanted: Execution) -> AsyncIterator[Command]:
        """A command that somebody speaks with, run in the container. Let go of, but not ended, at the end.

        Raises BadContainer (it cannot be as it is wanted), CannotRun, ContainerError when the container does not run.
        """
        known, places = self._known(container_id), self._places(container_id)
        if known.has_ended or not self._program.started(container_id):
            raise ContainerError(f"container {container_id} does not run")
        if self.is_paused(container_id):
            raise ContainerError(f"container {container_id} is paused: unpause it first")
        try:
            base = json.loads(places.config.read_text())["process"]
        except FileNotFoundError:
            raise ContainerError(f"container {container_id} does not run") from None
        process = await self._in_thread(process_of, base, wanted, places.rootfs, self._machine.capabilities)
        async with AsyncExitStack() as stack:
            run = self._program.command(container_id, process, places.bundle, stdin=wanted.stdin, quiet=wanted.quiet)
            try:
                command = await stack.enter_async_context(run)
            except (CannotRun, FileNotFoundError) as error:
                if known.has_ended or not places.config.exists():
                    # It ended meanwhile, and the runtime saw parts of that.
                    raise ContainerError(f"container {container_id} does not run (any longer)") from None
                raise CannotRun(str(error)) from None
            yield command

    @asynccontextmanager
    async def root_of(self, container_id: str, layers: Sequence[str]) -> AsyncIterator[Path]:
        """A container's root directory: as it sees it itself while it runs, else mounted as long as the block lasts.

        `layers` are its image's. Raises ContainerError.
        """
        if self.runs(container_id) and self._program.started(container_id):
            yield Path(f"/proc/{self._known(container_id).record.pid}/root")
            return
        places = self._places(container_id)
        place = self._looked_at / container_id
        target = place / "rootfs"
        upper, work = places.state / "upper", places.state / "work"
        async with self._locked(container_id):
            try:
                for directory in (target, upper, work):
                    directory.mkdir(parents=True, exist_ok=True)
                await self._mounter.call(self._mounter.overlay, target, self._skeleton, layers, upper, work, again=True)
                yield target
            except OSError as error:
                raise ContainerError(f"the container's root could not be mounted: {error}") from None
            finally:
                await to_the_end(self._in_thread(_let_go, place))

    @asynccontextmanager
    async def files_of(self, container_id: str, layers: Sequence[str]) -> AsyncIterator[Path]:
        """As `root_of`, but without what is mounted into a container while it runs: volumes, /proc and such."""
        rootfs = self._places(container_id).rootfs
        if self.runs(container_id) and rootfs.exists():
            yield rootfs
            return
        async with self.root_of(container_id, layers) as root:
            yield root

    @asynccontextmanager
    async def image_of(self, container_id: str, layers: Sequence[str]) -> AsyncIterator[Path]:
        """What a container began with, mounted as long as the block lasts. Raises ContainerError."""
        place = self._looked_at / f"{container_id}.{secrets.token_hex(4)}"
        try:
            place.mkdir(parents=True)
            await self._mounter.call(self._mounter.lowers, place, self._skeleton, layers)
            yield place
        except OSError as error:
            raise ContainerError(f"the container's image could not be mounted: {error}") from None
        finally:
            await to_the_end(self._in_thread(_let_go, place))

    def written(self, container_id: str) -> Path:
        """Where a container's changes are: the upper directory of its overlay."""
        return self._places(container_id).state / "upper"

    async def members(self, container_id: str) -> set[int]:
        """The processes of a container, as this machine numbers them. Raises ContainerError."""
        self._known(container_id)
        return await self._in_thread(self._cgroups.members, container_id)

    async def usage(self, container_ids: Sequence[str]) -> Mapping[str, TaskStats]:
        """What running containers use now; those that have ended are left out."""
        running = {one: self._containers[one].record.pid for one in container_ids if one in self._containers}
        return await self._in_thread(self._gauges.read, running)

    def attach_socket(self, container_id: str) -> Path:
        """Where conmon passes on input and output of the container's own program."""
        return self._places(container_id).bundle / "attach"

    def control_fifo(self, container_id: str) -> Path:
        """Where conmon is told the size of the container's own terminal."""
        return self._places(container_id).bundle / "ctl"

    async def edit_hosts(self, container_id: str, change: Callable[[str], str]) -> None:
        """Have /etc/hosts of a container that runs be what `change` makes of it. Raises OSError."""
        await self._in_thread(root.edit_hosts, self._places(container_id), change)

    async def remove(self, container_id: str, *, keep_log: bool = False, keep_files: bool = False) -> None:
        """Take a container away with all it has (but its log, or but all it wrote); one that runs is killed.

        No error if there is none.

        Raises ContainerError when something of it cannot be removed; trying again may help.
        """
        async with self._locked(container_id):
            await to_the_end(self._discard(container_id, keep_log=keep_log, keep_files=keep_files))

    async def adopt(self, again: Set[str] = frozenset()) -> dict[str, ContainerState]:
        """Find the containers that earlier workers made, and follow them. What was only half made is removed.

        Those of `again` may be made again: what they wrote stays, and without more than that they are not found.
        """
        result = {}
        for container_id, record in (await self._in_thread(self._on_disk, again)).items():
            if record is None:
                try:
                    await self.remove(container_id, keep_files=container_id in again)
                except ContainerError:
                    log.exception("what was half made of container %s is left", container_id)
                continue
            one = self._containers.get(container_id) or self._follow(container_id, record)
            if one.has_ended:
                result[container_id] = ContainerState(Phase.ENDED, exit=one.exit.result())
            else:
                phase = Phase.RUNNING if self._program.started(container_id) else Phase.CREATED
                result[container_id] = ContainerState(phase, pid=record.pid)
        self._freezer.adopt(name for name, one in result.items() if one.phase == Phase.RUNNING)
        return result

    def _on_disk(self, again: Set[str]) -> dict[str, Record | None]:
        """Every container there is a trace of; None for what has to go."""
        traces = {name for place in (self._bundles, self._program.state_root) for name in os.listdir(place)}
        found = {name: Record.read(self._bundles / name) for name in sorted(traces)}
        for name in sorted(set(os.listdir(self._states)) - traces - again):
            # Its bundle went with the machine's memory: the machine was started anew. Its log is still of use.
            found[name] = Record.lost() if self._places(name).log.exists() else None
        return found

    def _follow(self, container_id: str, record: Record) -> Monitored:
        one = Monitored(record, self._bundles / container_id, lambda: self._cgroups.out_of_memory(container_id))
        self._containers[container_id] = one
        if (rule := Rule.read(self._bundles / container_id)) is not None:
            self._rotation.keep(container_id, self._places(container_id).log, rule)
        return one

    def _known(self, container_id: str) -> Monitored:
        one = self._containers.get(container_id)
        if one is None:
            raise ContainerError(f"there is no container {container_id}")
        return one

    async def _undo(self, container_id: str, *, keep_files: bool) -> None:
        # What the mounting thread was given is done to its end, whoever waits for it.
        await self._mounter.call(int)
        await self._discard(container_id, keep_files=keep_files)

    async def _discard(self, container_id: str, *, keep_log: bool = False, keep_files: bool = False) -> None:
        one = self._containers.get(container_id)
        if one is not None and not one.has_ended:
            await self.signal(container_id, signal.SIGKILL)
            try:
                async with asyncio.timeout(_END_LIMIT):
                    await asyncio.shield(one.exit)
            except TimeoutError:
                raise ContainerError(f"container {container_id} does not end though it was killed") from None
        await self._leave_group(container_id)
        await self._rotation.let_go(container_id)
        try:
            # The files last, and the bundle last of them: should this be interrupted, it tells of the container.
            if not keep_files:
                await self.volumes.release(container_id)
            await self._in_thread(self._delete, container_id, keep_log, keep_files)
        except OSError as error:
            raise ContainerError(f"container {container_id} could not be removed: {error}") from None
        self._containers.pop(container_id, None)
        self._freezer.forget(container_id)

    async def _leave_group(self, container_id: str) -> None:
        deadline = asyncio.get_running_loop().time() + _LEAVE_LIMIT
        while not await self._in_thread(self._cgroups.remove, container_id):
            if asyncio.get_running_loop().time() > deadline:
                raise ContainerError(f"processes of container {container_id} do not end though they were killed")
            await self._in_thread(self._cgroups.kill, container_id)
            await asyncio.sleep(_LEAVE_PAUSE)

    def _delete(self, container_id: str, keep_log: bool, keep_files: bool) -> None:
        places = self._places(container_id)
        mounts.unmount_below(places.bundle)
        kept = keep_log and places.log.exists()
        disk = [one for one in places.state.iterdir() if one.is_dir()] if kept else [places.state]
        if keep_files:
            disk = []
        for directory in (self._program.state_root / container_id, *disk, places.bundle):
            mounts.delete(directory)

    def _places(self, container_id: str) -> Places:
        return Places(self._bundles / container_id, self._states / container_id, self._skeleton)

    @asynccontextmanager
    async def _locked(self, container_id: str) -> AsyncIterator[None]:
        """One creation or removal of a container at a time."""
        lock = self._locks.setdefault(container_id, asyncio.Lock())
        async with lock:
            yield

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def _let_go(place: Path) -> None:
    """Unmount what is mounted below, and remove it."""
    mounts.unmount_below(place)
    mounts.delete(place)
