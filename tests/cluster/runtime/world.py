"""A place for containers: a root file system of busybox, a namespace without a network, a Runtime over them.

Everything is made in a mount namespace of its own (see conftest), below one directory and one control group.
"""

import asyncio
import ctypes
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flota.overlay import Sandbox, namespaces
from flota.v1.objects_pb2 import Task
from flota.v1.specs_pb2 import ContainerSpec, TaskSpec
from flota.v1.types_pb2 import ResourceRequirements
from flota.worker.images.config import ImageConfig
from flota.worker.runtime import mounts
from flota.worker.runtime.container import Container, Exit, Log, PlacedFile
from flota.worker.runtime.machine import CGROUPS
from flota.worker.runtime.runtime import Runtime

BUSYBOX = Path("/usr/bin/busybox")
_APPLETS = (
    *("cat", "dd", "echo", "env", "false", "grep", "hostname", "id", "kill", "ls", "mkdir", "mount", "ps", "pwd", "rm"),
    *("sh", "sleep", "stat", "sync", "test", "touch", "true"),
)
_CLONE_NEWNS = 0x20000
_MS_SLAVE = 1 << 19
_MS_SHARED = 1 << 20
_MS_BIND = 4096
_MS_REC = 16384
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private_mounts() -> Iterator[None]:
    """Be in a mount namespace of one's own, without a cgroup2 beside v1, then in the former again."""
    here = os.getcwd()
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert _libc.unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        try:
            assert _libc.mount(None, b"/", None, _MS_SLAVE | _MS_REC, None) == 0, os.strerror(ctypes.get_errno())
            _libc.umount2(os.fsencode(CGROUPS / "unified"), 2)
            yield
        finally:
            # Refused as long as a thread that shares our working directory has not quite ended.
            deadline = time.monotonic() + 60
            while _libc.setns(home, _CLONE_NEWNS) != 0:
                assert time.monotonic() < deadline, os.strerror(ctypes.get_errno())
                time.sleep(0.01)
            os.chdir(here)
    finally:
        os.close(home)


def make_layer(directory: Path) -> None:
    """A root file system: busybox, its usual names, a few files to look at."""
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "srv/content"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for name in _APPLETS:
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
    (directory / "srv/content/file").write_text("from the image\n")
    os.chown(directory / "srv/content", 1000, 1000)
    (directory / "srv/content").chmod(0o750)


def make_netns(path: Path) -> None:
    """A network namespace with nothing in it. In a thread: the namespace is the thread's."""

    def make() -> None:
        home = namespaces.current()
        with namespaces.created(path, home):
            pass
        os.close(home)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()


async def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Ask until yes: for what other processes do in their own time."""
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


class World:
    """One node's directories; `container` describes a task, `runtime` makes a Runtime (again)."""

    def __init__(self, directory: Path, cgroup_parent: str, *, made: bool = False) -> None:
        self.directory = directory
        self.cgroup_parent = cgroup_parent
        self.run = directory / "run"
        self.state = directory / "state"
        self.layers = directory / "layers"
        self.netns = directory / "netns"
        self._number = 0
        if not made:
            self.run.mkdir(parents=True)
            # As /run is on a real machine.
            mounts.mount("tmpfs", self.run, "tmpfs")
            make_layer(self.layers / "base")
            make_netns(self.netns)

    def close(self) -> None:
        namespaces.forget(self.netns)
        mounts.unmount(self.run)

    def runtime(self) -> Runtime:
        return Runtime(
            run_directory=self.run,
            state_directory=self.state,
            layers_directory=self.layers,
            cgroup_parent=self.cgroup_parent,
        )

    def container(
        self,
        *command: str,
        image: ImageConfig | None = None,
        resources: ResourceRequirements | None = None,
        files: tuple[PlacedFile, ...] = (),
        log: Log = Log(),  # noqa: B008 - it cannot be changed
        **spec: Any,
    ) -> Container:
        """A task that runs `command` (a single word with spaces is a line for the shell)."""
        self._number += 1
        words = ["/bin/sh", "-c", command[0]] if len(command) == 1 and " " in command[0] else list(command)
        task = TaskSpec(container=ContainerSpec(command=words, **spec), resources=resources)
        return Container(
            task=Task(id=f"task{self._number:04d}".ljust(25, "0"), spec=task),
            image=image or ImageConfig(),
            layers=("base",),
            sandbox=Sandbox(self.netns, "nameserver 127.0.0.11\n", ("127.0.0.1 localhost", "10.0.0.2 box")),
            hostname="box",
            files=files,
            log=log,
        )

    def output(self, container: Container) -> list[str]:
        """What the container said, without times and streams."""
        text = ""
        for line in (self.state / "tasks" / container.id / "log").read_text().splitlines():
            _, _, mark, part = line.split(" ", 3)
            text += part if mark == "P" else f"{part}\n"
        return text.splitlines()

    def inside(self, container: Container) -> list[str]:
        """Command lines of a container's processes."""
        pids: set[str] = set()
        for group in self.groups():
            if group.name == container.id:
                pids |= set((group / "cgroup.procs").read_text().split())
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids if Path(f"/proc/{pid}").exists()]
        return sorted(line.replace(b"\0", b" ").decode().strip() for line in lines if line)

    @contextmanager
    def shared(self, place: Path) -> Iterator[None]:
        """Let mounts below `place` reach other mount namespaces."""
        mounts.mount(str(place), place, "", _MS_BIND)
        mounts.mount("", place, "", _MS_SHARED)
        try:
            yield
        finally:
            for one in mounts.below(place):
                mounts.unmount(one)

    def root(self, container_id: str) -> Path:
        """The container's root file system as the node sees it."""
        return self.run / "tasks" / container_id / "rootfs"

    def groups(self) -> list[Path]:
        """Control groups below our parent, monitors' and containers', in all hierarchies."""
        places = [CGROUPS / self.cgroup_parent[1:], *(one / self.cgroup_parent[1:] for one in CGROUPS.iterdir())]
        return sorted(group for place in places if place.is_dir() for group in place.iterdir() if group.is_dir())

    def left(self) -> Mapping[str, list[str]]:
        """What is there of containers: mounts, groups, processes, files."""
        return {
            "mounts": [str(one) for one in mounts.below(self.directory) if one not in (self.run, self.netns)],
            "groups": [str(one) for one in self.groups() if one.name != "monitors"],
            "processes": self.processes(),
            "files": [
                str(one)
                for place in (self.run, self.state / "tasks")
                for one in place.rglob("*")
                if one not in (self.run / "tasks", self.run / "runtime")
            ],
        }

    def processes(self) -> list[str]:
        """Command lines of conmon, crun and whatever names our directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if str(self.directory) in line and int(entry.name) != os.getpid():
                    found.append(line)
        return found


async def said(world: World, runtime: Runtime, container: Container) -> list[str]:
    """Run it to its end; what it said."""
    await runtime.create(container)
    await runtime.launch(container.id)
    assert await runtime.wait(container.id) == Exit(0), world.output(container)
    return world.output(container)


async def running(runtime: Runtime, container: Container) -> Container:
    """Let it run."""
    await runtime.create(container)
    await runtime.launch(container.id)
    return container
