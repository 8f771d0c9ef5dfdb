"""What the machine has, as far as containers depend on it, and finding it out.

Changes nothing on the machine.
"""

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flota.worker.runtime import capabilities, limits

CGROUPS = Path("/sys/fs/cgroup")
_SECCOMP = Path("/proc/sys/kernel/seccomp")
_SYSTEM = Path("/sys/devices/system")
_SYS_RESOURCE = "CAP_SYS_RESOURCE"


class RuntimeUnavailable(Exception):
    """This machine cannot run containers as it is. The message is for people."""


@dataclass(frozen=True)
class Machine:
    """`ceilings` are the ulimits that cannot be given in full, with the most that can."""

    cgroup_parent: str
    # cgroup v2 everywhere; otherwise one directory per v1 hierarchy.
    unified_cgroups: bool
    swap_accounting: bool
    # The small init; empty when the machine has none.
    init: str
    capabilities: frozenset[str]
    ceilings: Mapping[str, int]
    # Whether the kernel filters system calls.
    seccomp: bool
    # As the kernel lists those that are there.
    cpus: str = "0"
    memory_nodes: str = "0"

    @property
    def ability(self) -> limits.Ability:
        """What can be limited here."""
        return limits.Ability(self.swap_accounting, not self.unified_cgroups, self.cpus, self.memory_nodes)


def look(cgroup_parent: str, init: str) -> Machine:
    """Find out. Raises RuntimeUnavailable when there are no control groups to put containers in."""
    kinds = _cgroup_mounts()
    unified = kinds.get(CGROUPS) == "cgroup2"
    if not unified and "cgroup" not in kinds.values():
        raise RuntimeUnavailable(f"no control groups are mounted at {CGROUPS}")
    available = _capabilities()
    return Machine(
        cgroup_parent=cgroup_parent,
        unified_cgroups=unified,
        swap_accounting=_swap_accounting(unified),
        init=init if os.access(init, os.X_OK) else "",
        capabilities=available,
        ceilings={} if _SYS_RESOURCE in available else _hard_limits(),
        seccomp=_SECCOMP.exists(),
        cpus=_online("cpu"),
        memory_nodes=_online("node"),
    )


def _online(kind: str) -> str:
    there = _SYSTEM / kind / "online"
    return there.read_text().strip() if there.exists() else "0"


def hybrid_cgroups() -> bool:
    """Whether a cgroup2 is mounted beside v1 hierarchies, which crun refuses."""
    kinds = _cgroup_mounts()
    return "cgroup" in kinds.values() and kinds.get(CGROUPS / "unified") == "cgroup2"


def _cgroup_mounts() -> dict[Path, str]:
    """Mount point → file system of what is mounted at and directly below /sys/fs/cgroup."""
    found: dict[Path, str] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split(" ")
            kind = fields[fields.index("-", 6) + 1]
            target = Path(fields[4])
            if kind in ("cgroup", "cgroup2") and CGROUPS in (target, target.parent):
                found[target] = kind
    return found


def with_swap_known(machine: Machine, root: Path = CGROUPS) -> Machine:
    """The same once the parent group is there (Cgroups.prepare): v2's top has no limits of its own to look at.

    A machine without systemd may have no other group, and its containers' limits of swap were left out then.
    """
    if not machine.unified_cgroups:
        return machine
    group = root / machine.cgroup_parent.strip("/")
    return replace(machine, swap_accounting=machine.swap_accounting or (group / "memory.swap.max").exists())


def _swap_accounting(unified: bool) -> bool:
    if unified:
        # The root group has no limits of its own; look at any other.
        return next(CGROUPS.glob("*/memory.swap.max"), None) is not None
    return (CGROUPS / "memory/memory.memsw.limit_in_bytes").exists()


def _capabilities() -> frozenset[str]:
    """What this process may hand on."""
    masks = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("CapPrm", "CapBnd"):
            masks[name] = int(value, 16)
    return capabilities.from_mask(masks["CapPrm"] & masks["CapBnd"])


def _hard_limits() -> dict[str, int]:
    hard = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1] for name in _resources()}
    return {name: limit for name, limit in hard.items() if limit != resource.RLIM_INFINITY}


def _resources() -> list[str]:
    return sorted(name for name in limits.RLIMITS if hasattr(resource, f"RLIMIT_{name.upper()}"))
