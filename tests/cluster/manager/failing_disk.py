"""Disks that fail when they are told to.

`FailingDisk` is one whose syncs really fail: ext4 on a loop device whose backing file has no room to grow. Writes end
in the page cache, as on any disk; the device learns only at the sync that it cannot keep them. The kernel then takes
those pages for clean: read again they are there until the cache is dropped, and no later sync writes them.

All of it is in a mount namespace of its own: one that another test begins meanwhile would keep a copy of it, and the
loop device with it. `prefix` is what a command begins with that is to see the disk.

`FailingSyncs` has the calls of one process say EIO, as they do when a device is broken (Debian's libfiu, between the
program and its C library): nothing is written by them then.
"""

import errno
import subprocess
from pathlib import Path
from typing import Any

_FIU = Path(__file__).parents[3] / ".cache" / "fiu"
_FIU_LIBRARIES = [_FIU / name for name in ("libfiu.so.1.1", "fiu_run_preload.so", "fiu_posix_preload.so")]
_BACKING = "24m"
_IMAGE = "256M"


class FailingDisk:
    """See the module's docstring; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._backing = directory / "backing"
        self.path = directory / "disk"

    def __enter__(self) -> "FailingDisk":
        self._backing.mkdir()
        self.path.mkdir()
        # The namespace lives as long as this process, and what is mounted in it as long as the namespace.
        self._holder: subprocess.Popen[Any] = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"ready\n")
        self._holder.stdin.flush()
        self._holder.stdout.readline()
        self.prefix = ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt")
        try:
            self._run("mount", "-t", "tmpfs", "-o", f"size={_BACKING}", "failing-disk", str(self._backing))
            self._run("truncate", "-s", _IMAGE, f"{self._backing}/image")
            # Without a journal the file system itself stays as it is when a write fails.
            self._run("mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", f"{self._backing}/image")
            self._mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()

    def _mount(self) -> None:
        self._run("mount", "-o", "loop,noatime", f"{self._backing}/image", str(self.path))
        device = self._run("findmnt", "-no", "SOURCE", str(self.path))
        # A page at a time: the kernel takes a write of several for done when the backing file had room for some.
        Path("/sys/block", Path(device).name, "queue/max_sectors_kb").write_text("4")

    def fail(self) -> None:
        """From now on nothing new can be kept."""
        filled = f"{self._backing}/ballast"
        full = subprocess.run([*self.prefix, "dd", "if=/dev/zero", f"of={filled}", "bs=4096"], capture_output=True)
        assert b"No space left" in full.stderr

    def mend(self) -> None:
        """There is room again."""
        self._run("rm", f"{self._backing}/ballast")

    def lose_power(self) -> None:
        """Only what the device has stays. Nobody may have a file open."""
        self._run("umount", str(self.path))
        self._mount()

    def _run(self, *words: str) -> str:
        done = subprocess.run([*self.prefix, *words], capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()


class FailingSyncs:
    """See the module's docstring. Start a process with `environment`, then tell it by its id."""

    def __init__(self, directory: Path) -> None:
        self._control = directory / "fiu"
        self.environment = {
            "LD_PRELOAD": " ".join(map(str, _FIU_LIBRARIES)),
            "FIU_CTRL_FIFO": str(self._control),
        }

    @staticmethod
    def can_be_had() -> bool:
        """Whether the library is here."""
        return all(path.exists() for path in _FIU_LIBRARIES)

    def fail(self, pid: int) -> None:
        """From now on fsync and fdatasync of that process fail."""
        self._tell(pid, f"enable name=posix/io/sync/*,failinfo={errno.EIO}")

    def mend(self, pid: int) -> None:
        """They work again."""
        self._tell(pid, "disable name=posix/io/sync/*")

    def _tell(self, pid: int, command: str) -> None:
        with open(f"{self._control}-{pid}.in", "w") as there:
            there.write(f"{command}\n")
        with open(f"{self._control}-{pid}.out") as back:
            assert back.readline().strip() == "0", command
