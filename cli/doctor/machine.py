"""Checks of the machine: programs, kernel, control groups, disk, memory, clock, ports. Needs no daemon.

What the kernel can do is tried, in namespaces that end with the trial: a module that could be loaded counts as there.
Everything is read through a Machine, so that tests can make one up.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flota.cli.doctor.finding import Finding, failure, ok, warning
from flota.stacks.units import format_size

GIB = 1 << 30
_TRIAL_SECONDS = 20.0
# Older ones lack what is used here; Debian 12 has newer ones.
_PROGRAMS = (
    ("crun", "crun --version", (1, 5)),
    ("conmon", "conmon --version", (2, 1)),
    ("nft", "nft --version", (1, 0)),
)
_CONTROLLERS = ("cpu", "memory", "pids")
# What the answer of adjtimex(2) means: the kernel's clock is not being kept right.
_TIME_ERROR = 5
_SLOW_SYNC_SECONDS = 0.020
_RAFT, _MESH, _METRICS = 2377, 4789, (9323, 9324)


@dataclass
class Machine:
    """Where to look, and how to run a program. The defaults are this machine."""

    root: Path = Path("/")
    state: Path = Path("/var/lib/flota")
    # Ports are the swarm's own once this node is in one.
    in_swarm: bool = False
    run: Callable[[Sequence[str]], tuple[int, str]] = field(default=lambda command: _run(command))
    synchronised: Callable[[], bool] = field(default=lambda: _clock_is_synchronised())

    def read(self, path: str) -> str:
        """A file's text; empty when there is none."""
        with suppress(OSError):
            return (self.root / path.lstrip("/")).read_text(errors="replace")
        return ""


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TRIAL_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout + done.stderr


def _clock_is_synchronised() -> bool:
    # struct timex begins with `modes`; 0 = only look. It is at most 208 bytes.
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))) != _TIME_ERROR


def checks(machine: Machine) -> list[Finding]:
    """All of them, in the order in which a person reads them."""
    found: list[Finding] = []
    for check in (versions, kernel, control_groups, disk, memory, clock, ports):
        found += check(machine)
    return found


def versions(machine: Machine) -> Iterator[Finding]:
    """Python, and the programs that containers and networks are made with."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield ok("versions", f"Python {python}")
    for name, command, least in _PROGRAMS:
        status, output = machine.run(command.split())
        match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", output)
        if status or match is None:
            yield failure(
                "versions", f"{name} does not run", f"apt-get install {'nftables' if name == 'nft' else name}"
            )
        elif (int(match[1]), int(match[2])) < least:
            needed = ".".join(map(str, least))
            yield warning("versions", f"{name} {match[0]} is older than {needed}", f"install {name} {needed} or newer")
        else:
            yield ok("versions", f"{name} {match[0]}")


# What is tried, the command, whether nothing works without it, and what to do.
_TRIALS: tuple[tuple[str, Sequence[str], bool, str], ...] = (
    ("namespaces", ("unshare", "-n", "-m", "-u", "-i", "true"), True, "run as root, on a kernel with namespaces"),
    ("bridges", ("unshare", "-n", "ip", "link", "add", "try0", "type", "bridge"), True, "modprobe bridge"),
    ("veth", ("unshare", "-n", "ip", "link", "add", "try0", "type", "veth"), True, "modprobe veth"),
    (
        "VXLAN",
        ("unshare", "-n", "ip", "link", "add", "try0", "type", "vxlan", "id", "1", "dstport", "4789"),
        True,
        "modprobe vxlan",
    ),
    ("nftables", ("unshare", "-n", "nft", "add", "table", "inet", "try"), True, "modprobe nf_tables"),
    (
        "WireGuard",
        ("unshare", "-n", "ip", "link", "add", "try0", "type", "wireguard"),
        False,
        "encrypted networks are slower without it: modprobe wireguard, or a kernel that has it",
    ),
)


def kernel(machine: Machine) -> Iterator[Finding]:
    """What containers and overlay networks need of the kernel."""
    release = machine.read("/proc/sys/kernel/osrelease").strip()
    fine: list[str] = []
    if (
        re.search(r"\boverlay$", machine.read("/proc/filesystems"), re.MULTILINE)
        or not machine.run(("modprobe", "-n", "overlay"))[0]
    ):
        fine.append("overlayfs")
    else:
        yield failure("kernel", "there is no overlayfs", "images need it: modprobe overlay")
    if machine.read("/proc/sys/kernel/seccomp/actions_avail"):
        fine.append("seccomp")
    else:
        yield warning("kernel", "there is no seccomp", "containers are less confined without it")
    for name, command, needed, advice in _TRIALS:
        if not machine.run(command)[0]:
            fine.append(name)
        elif needed:
            yield failure("kernel", f"no {name} can be made", advice)
        else:
            yield warning("kernel", f"there is no {name}", advice)
    yield ok("kernel", f"{release}: {', '.join(fine)}")


def control_groups(machine: Machine) -> Iterator[Finding]:
    """Version 2, or version 1 with what limits need."""
    unified = machine.read("/sys/fs/cgroup/cgroup.controllers").split()
    if unified:
        missing = [name for name in _CONTROLLERS if name not in unified]
        word = "version 2"
    else:
        missing = [name for name in _CONTROLLERS if not (machine.root / "sys/fs/cgroup" / name).is_dir()]
        word = "version 1"
    if missing:
        yield failure(
            "cgroups",
            f"{word}, without {', '.join(missing)}",
            "limits need them: cgroup_enable=memory on the kernel's line",
        )
    elif word == "version 1":
        yield warning("cgroups", "version 1", "it works; version 2 ends containers more surely: boot with systemd 247+")
    else:
        yield ok("cgroups", word)


def disk(machine: Machine) -> Iterator[Finding]:
    """Space, inodes, and how long the disk takes to keep something for good: every change of the swarm waits for it."""
    folder = machine.state
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
        nodes = os.statvfs(folder)
    except OSError as error:
        yield failure("disk", f"{folder}: {error.strerror}", "choose another --state-dir")
        return
    free = f"{format_size(usage.free)} of {format_size(usage.total)} free on {folder}"
    share = usage.free / usage.total if usage.total else 0
    if usage.free < GIB // 4:
        yield failure("disk", free, "make room (flota image prune): a manager stops writing when the disk is full")
    elif usage.free < 2 * GIB or share < 0.05:
        yield warning("disk", free, "make room (flota image prune)")
    else:
        yield ok("disk", free)
    if nodes.f_files and nodes.f_ffree / nodes.f_files < 0.05:
        yield warning(
            "disk", f"{nodes.f_ffree:,} of {nodes.f_files:,} inodes free", "many small files: flota image prune"
        )
    yield from _sync_time(folder)


def _sync_time(folder: Path) -> Iterator[Finding]:
    path = folder / f".flota-doctor-{os.getpid()}"
    times = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(9):
                file.write(b"x" * 512)
                begun = time.perf_counter()
                os.fdatasync(file.fileno())
                times.append(time.perf_counter() - begun)
    except OSError as error:
        yield warning("disk", f"nothing can be written to {folder}: {error.strerror}", "run flota doctor as root")
        return
    finally:
        path.unlink(missing_ok=True)
    median = sorted(times)[len(times) // 2]
    told = f"a write is safe after {median * 1000:.1f} ms"
    if median > _SLOW_SYNC_SECONDS:
        yield warning("disk", told, "each change of the swarm waits for this on most managers: use a faster disk")
    else:
        yield ok("disk", told)


def memory(machine: Machine) -> Iterator[Finding]:
    """What is left."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.read("/proc/meminfo"), re.MULTILINE))
    total, available = int(found.get("MemTotal", 0)) << 10, int(found.get("MemAvailable", 0)) << 10
    if not total:
        return
    told = f"{format_size(available)} of {format_size(total)} available"
    if available < total // 20:
        yield warning("memory", told, "the kernel may end containers soon: reserve and limit memory (--limit-memory)")
    else:
        yield ok("memory", told)


def clock(machine: Machine) -> Iterator[Finding]:
    """Certificates and logs need the right time."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if machine.synchronised():
        yield ok("clock", f"{now}, kept right by the kernel")
    else:
        yield warning(
            "clock", f"{now}, and nothing keeps it right", "apt-get install chrony, or timedatectl set-ntp true"
        )


def ports(machine: Machine) -> Iterator[Finding]:
    """Those that flota uses are free, as long as no node runs here."""
    if machine.in_swarm:
        return
    taken = [f"{port}/tcp" for port in (_RAFT, *_METRICS) if port in _listening(machine, "tcp", "0A")]
    taken += [f"{_MESH}/udp" for _ in (1,) if _MESH in _listening(machine, "udp", "07")]
    if taken:
        yield warning(
            "ports",
            f"{', '.join(taken)} taken by another program",
            "end it (Docker's swarm mode uses the same ones), or choose others: --listen-addr, --data-path-port",
        )
    else:
        yield ok("ports", f"{_RAFT}/tcp, {', '.join(f'{port}/tcp' for port in _METRICS)} and {_MESH}/udp are free")


def _listening(machine: Machine, protocol: str, state: str) -> set[int]:
    lines: Iterable[str] = (
        line for name in (protocol, f"{protocol}6") for line in machine.read(f"/proc/net/{name}").splitlines()[1:]
    )
    fields = [line.split() for line in lines]
    return {int(each[1].rpartition(":")[2], 16) for each in fields if len(each) > 3 and each[3] == state}
