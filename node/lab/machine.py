"""The machines of a lab from outside: boot one, find one, run something in one, kill one.

A machine is found by the words in its process 1's command line (init.py), so nothing needs to be remembered and
nothing can be stale.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from flota.node.lab import cgroups
from flota.node.lab.errors import LabError
from flota.node.lab.init import Boot

_MODULE = "flota.node.lab.init"
_TOOLS = ("ip", "nft", "nsenter")
_LIMIT_SECONDS = 60.0


class Booting:
    """A machine that has its namespaces and waits for the word to go on. Dies with the process that holds this."""

    def __init__(self, lab: str, name: str, process: subprocess.Popen[bytes]) -> None:
        self.lab = lab
        self.name = name
        self._process = process
        self.pid = 0

    def wait_until_ready(self) -> None:
        """Return when its namespaces are there. Raises LabError with what it says otherwise."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _LIMIT_SECONDS)
        line = self._process.stdout.readline().decode(errors="replace").strip() if ready else "no answer"
        self._process.stdout.close()
        self._process.wait()
        if line != "ready":
            self.give_up()
            raise LabError(f"{self.name} does not boot: {line.removeprefix('failed ') or 'its first process died'}")
        self.pid = find(self.lab).get(self.name, 0)
        if not self.pid:
            raise LabError(f"{self.name} does not boot: its first process died")

    def go(self) -> None:
        """Let it live, from now on also without us."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        self._process.stdin.close()

    def give_up(self) -> None:
        """Let it die."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def boot(lab: str, name: str, how: Boot) -> Booting:
    """Begin to make a machine."""
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE, lab, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment(),
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(how.line())
        process.stdin.flush()
    return Booting(lab, name, process)


def environment() -> dict[str, str]:
    """What commands on a machine find: flota on the path, and nothing that leads to another daemon."""
    kept = {name: value for name, value in os.environ.items() if name not in ("FLOTA_HOST", "DOCKER_HOST")}
    flota = str(Path(sys.executable).parent)
    path = kept.get("PATH", os.defpath).split(":")
    return kept | {"PATH": ":".join([flota, *(part for part in path if part != flota)])}


def check_tools() -> None:
    """Raises LabError when this machine or this user cannot have labs."""
    if os.geteuid() != 0:
        raise LabError("a lab needs root: it makes namespaces, interfaces and mounts")
    for tool in _TOOLS:
        if not any(os.access(f"{directory}/{tool}", os.X_OK) for directory in os.get_exec_path()):
            raise LabError(f"{tool} is not installed (apt-get install iproute2 nftables util-linux)")
    if not cgroups.hierarchies():
        raise LabError(f"no control groups are mounted at {cgroups.ROOT}")


def processes(lab: str | None = None) -> dict[int, tuple[str, str]]:
    """Every process of labs' machines by its id, those on the way to being a process 1 too: (lab, machine)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(words) >= 5 and words[1] == b"-m" and words[2] == _MODULE.encode():
                owner, name = words[3].decode(errors="replace"), words[4].decode(errors="replace")
                if lab in (None, owner):
                    found[int(entry.name)] = (owner, name)
    return found


def find(lab: str) -> dict[str, int]:
    """The machines of a lab that are alive: the id of each one's process 1, by name."""
    return {name: pid for pid, (_, name) in processes(lab).items() if _is_first(pid)}


def _is_first(pid: int) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("State:") and "Z" in line:
                return False
            if line.startswith("NSpid:"):
                ids = line.split()[1:]
                return len(ids) > 1 and ids[-1] == "1"
    return False


def kill(lab: str, names: Collection[str] | None = None) -> None:
    """Kill machines (None: all, with whatever is on the way to being one) and wait until nothing of them runs.

    Raises LabError when something cannot be killed.
    """
    handles: list[tuple[str, int]] = []
    try:
        for pid, (_, name) in processes(lab).items():
            if names is None or name in names:
                with suppress(ProcessLookupError):
                    handles.append((name, os.pidfd_open(pid)))
                    # The id may have passed to somebody else since.
                    if pid not in processes(lab):
                        os.close(handles.pop()[1])
        for _, handle in handles:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        deadline = time.monotonic() + _LIMIT_SECONDS
        for name, handle in handles:
            # Process 1 ends after everything else in its namespace has.
            if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise LabError(f"something on {name} cannot be killed (ps shows it in state D)")
    finally:
        for _, handle in handles:
            os.close(handle)


def entering(pid: int, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` on the machine whose process 1 is `pid`, in the same directory."""
    namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
    return ["nsenter", f"--target={pid}", *namespaces, f"--wdns={os.getcwd()}", "--", *argv]
