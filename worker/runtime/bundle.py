"""config.json: a container in the words of the OCI runtime specification. Pure.

Kernel defaults follow Docker's: masked and read-only paths of /proc, /sys read-only, a 64 MiB /dev/shm.
"""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flota.v1.types_pb2 import GenericResource
from flota.worker.runtime import devices, limits, seccomp
from flota.worker.runtime.accounts import Account
from flota.worker.runtime.capabilities import effective
from flota.worker.runtime.container import BadContainer, Container
from flota.worker.runtime.machine import Machine

INIT = "/dev/init"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MASKED = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@dataclass(frozen=True)
class HostMount:
    """A mount of the container as config.json wants it."""

    target: str
    kind: str
    source: str
    options: tuple[str, ...]


_KERNEL_MOUNTS = (
    HostMount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    HostMount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    HostMount(
        "/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    ),
    HostMount("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    HostMount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    HostMount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)
_CGROUP_MOUNT = HostMount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro"))


def arguments(container: Container) -> list[str]:
    """What the container runs: the spec's command and args over the image's. Raises BadContainer."""
    spec, image = container.task.spec.container, container.image
    # A command of one's own takes nothing of the image's arguments.
    result = [*spec.command, *spec.args] if spec.command else [*image.entrypoint, *(spec.args or image.cmd)]
    if not result:
        raise BadContainer("no command: neither the service nor the image says what to run")
    return result


def environment(container: Container) -> list[str]:
    """KEY=VALUE, the spec's over the image's over the defaults. A name alone in the spec takes it away.

    Which generic resources the scheduler gave the task stands in DOCKER_RESOURCE_KIND: a count, or names.
    """
    spec = container.task.spec.container
    wanted = [_PATH, f"HOSTNAME={container.hostname}", *(["TERM=xterm"] if spec.tty else []), *container.image.env]
    values = {name: value for name, _, value in (entry.partition("=") for entry in wanted)}
    for entry in spec.env:
        name, has_value, value = entry.partition("=")
        if has_value:
            values[name] = value
        else:
            values.pop(name, None)
    values |= _generic_resources(container.task.assigned_generic)
    return [f"{name}={value}" for name, value in values.items()]


def _generic_resources(assigned: Iterable[GenericResource]) -> dict[str, str]:
    """Docker's names and form: DOCKER_RESOURCE_GPU=UUID1,UUID2 or =2."""
    given: dict[str, list[str]] = {}
    for one in assigned:
        given.setdefault(f"DOCKER_RESOURCE_{one.kind.upper()}", []).append(one.name or str(one.count))
    return {name: ",".join(values) for name, values in given.items()}


def directory(container: Container) -> str:
    """The working directory, absolute."""
    wanted = container.task.spec.container.dir or container.image.working_dir or "/"
    return wanted if wanted.startswith("/") else f"/{wanted}"


def process(container: Container, account: Account, command: list[str], machine: Machine) -> dict[str, Any]:
    """The `process` part, also for commands run in the container later. Raises BadContainer."""
    spec = container.task.spec.container
    env = environment(container)
    if not any(entry.startswith("HOME=") for entry in env):
        env.append(f"HOME={account.home}")
    try:
        capabilities = effective(spec.capability_add, spec.capability_drop, machine.capabilities)
        rlimits = limits.rlimits(spec.ulimits, machine.ceilings)
    except ValueError as error:
        raise BadContainer(str(error)) from None
    # As Docker has it: another user than root keeps only what was asked for by name.
    held = capabilities if account.uid == 0 else []
    result: dict[str, Any] = {
        "terminal": spec.tty,
        "user": {"uid": account.uid, "gid": account.gid, "additionalGids": list(account.groups)},
        "args": command,
        "env": env,
        "cwd": directory(container),
        "capabilities": {"bounding": capabilities, "effective": held, "permitted": held},
        "rlimits": rlimits,
        "noNewPrivileges": spec.no_new_privileges,
    }
    if spec.oom_score_adj or "CAP_SYS_RESOURCE" in machine.capabilities:
        # Said also when it is 0: the daemon's own, which spares it, is not for containers.
        result["oomScoreAdj"] = spec.oom_score_adj
    return result


def configuration(
    container: Container,
    account: Account,
    mounts: list[HostMount],
    rootfs: Path,
    machine: Machine,
    found: Sequence[devices.Found] = (),
) -> dict[str, Any]:
    """The whole of config.json; `found` are the devices it asks for. Raises BadContainer."""
    spec = container.task.spec.container
    command = arguments(container)
    everything = [*_KERNEL_MOUNTS, _CGROUP_MOUNT]
    if spec.init:
        if not machine.init:
            raise BadContainer("init is asked for, and this node has no catatonit")
        command = [INIT, "--", *command]
        everything.append(HostMount(INIT, "bind", machine.init, ("bind", "ro", "nosuid", "nodev")))
    everything += mounts
    try:
        resources = limits.resources(container.task.spec.resources, machine.ability)
    except ValueError as error:
        raise BadContainer(str(error)) from None
    resources["devices"] += [one.rule for one in found]
    # The sandbox's namespace carries the network's own settings; these are the user's.
    linux: dict[str, Any] = {
        "cgroupsPath": f"{machine.cgroup_parent}/{container.id}",
        "resources": resources,
        "namespaces": [
            {"type": "pid"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "mount"},
            *([{"type": "network", "path": str(container.sandbox.netns)}] if container.sandbox.netns else []),
            *([{"type": "cgroup"}] if machine.unified_cgroups else []),
        ],
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
    }
    if found:
        linux["devices"] = [one.node for one in found]
    wanted = process(container, account, command, machine)
    if machine.seccomp and not spec.seccomp_unconfined:
        linux["seccomp"] = seccomp.profile(wanted["capabilities"]["bounding"], platform.machine())
    if spec.sysctls:
        linux["sysctl"] = dict(spec.sysctls)
    propagation = {option for mount in mounts for option in mount.options if option in ("rshared", "shared")}
    following = {option for mount in mounts for option in mount.options if option in ("rslave", "slave")}
    if propagation or following:
        linux["rootfsPropagation"] = "rshared" if propagation else "rslave"
    return {
        "ociVersion": "1.0.2",
        "process": wanted,
        "root": {"path": str(rootfs), "readonly": spec.read_only},
        "hostname": container.hostname,
        "mounts": [
            {"destination": one.target, "type": one.kind, "source": one.source, "options": list(one.options)}
            for one in everything
        ],
        "linux": linux,
    }
