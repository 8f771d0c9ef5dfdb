"""A disk whose syncs really fail when they are told to: ext4 on a loop device whose backing file has no room to grow.

Writes end in the page cache, as on any disk; the device learns only at the sync that it cannot keep them. The kernel
then takes those pages for clean: read again they are there until the cache is dropped, and no later sync writes them.

All of it is in a mount namespace of its own: one that another test begins meanwhile would keep a copy of it, and the
loop device with it. `prefix` is what a command begins with that is to see the disk.
"""

import subprocess
from pathlib import Path
from typing import Any

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
