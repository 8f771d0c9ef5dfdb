"""What a container may use, in the words of the OCI runtime specification (linux.resources, process.rlimits). Pure.

Docker's rules: a quota per 100 ms for cpu, memory with as much swap again unless the spec says otherwise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flota.v1.types_pb2 import ResourceRequirements, Ulimit

_CPU_PERIOD_US = 100_000
_MIN_CPU_QUOTA_US = 1000
# Docker raises what is less to the kernel's least, too.
_MIN_CPU_SHARES = 2
# The kernel's CONFIG_NR_CPUS at its largest.
_MOST_CPUS = 8192
MIN_MEMORY_BYTES = 4 << 20
RLIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
# Soft as every program expects it (select), hard for those that raise it.
_NOFILE_SOFT, _NOFILE_HARD = 1024, 524288
_UNLIMITED = (1 << 64) - 1


@dataclass(frozen=True)
class Ability:
    """What a machine can do: count swap, swap some more than others (cgroup v1 alone can), and which processors and
    memory nodes it has, as the kernel lists them."""

    swap_accounting: bool = True
    swappiness: bool = True
    cpus: str = "0"
    memory_nodes: str = "0"


def resources(wanted: ResourceRequirements, machine: Ability) -> dict[str, Any]:
    """linux.resources, without what the machine cannot do, as Docker has it. Raises ValueError naming the field."""
    result: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if cpu := _cpu(wanted, machine):
        result["cpu"] = cpu
    memory = _memory(wanted, machine.swap_accounting)
    if machine.swappiness and wanted.HasField("memory_swappiness"):
        memory["swappiness"] = wanted.memory_swappiness
    if memory:
        result["memory"] = memory
    if wanted.pids_limit > 0:
        result["pids"] = {"limit": wanted.pids_limit}
    return result


def changed_resources(wanted: ResourceRequirements, machine: Ability) -> dict[str, Any]:
    """linux.resources for a container that is there already: its devices stay as they are. Raises ValueError.

    That processes are not limited any longer crun cannot be told: see Cgroups.allow_processes.
    """
    result = resources(wanted, machine)
    del result["devices"]
    return result


def _cpu(wanted: ResourceRequirements, machine: Ability) -> dict[str, int | str]:
    cpu: dict[str, int | str] = {}
    if wanted.limits.nano_cpus:
        quota = wanted.limits.nano_cpus * _CPU_PERIOD_US // 10**9
        if quota < _MIN_CPU_QUOTA_US:
            raise ValueError(f"invalid cpu limit {wanted.limits.nano_cpus / 1e9:g}: at least 0.01")
        cpu |= {"quota": quota, "period": _CPU_PERIOD_US}
    if wanted.cpu_shares:
        cpu["shares"] = max(_MIN_CPU_SHARES, wanted.cpu_shares)
    for key, said, what, known in (
        ("cpus", wanted.cpuset_cpus, "CPUs", machine.cpus),
        ("mems", wanted.cpuset_mems, "memory nodes", machine.memory_nodes),
    ):
        if said:
            if not numbers(said) <= numbers(known):
                raise ValueError(f"Requested {what} are not available - requested {said}, available: {known}")
            cpu[key] = said
    return cpu


def numbers(text: str) -> set[int]:
    """The numbers of a list in the kernel's form, such as 0-2,5. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isascii() and first.isdigit() and (not last or (last.isascii() and last.isdigit()))):
            raise ValueError(f"invalid list of processors or memory nodes {text!r}: such as 0-2,5 is needed")
        if max(int(first), int(last or first)) > _MOST_CPUS or int(last or first) < int(first):
            raise ValueError(f"invalid list of processors or memory nodes {text!r}: {part} is not possible")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _memory(wanted: ResourceRequirements, swap_accounting: bool) -> dict[str, int]:
    limit, swap = wanted.limits.memory_bytes, wanted.memory_swap_bytes
    memory: dict[str, int] = {}
    if limit:
        if limit < MIN_MEMORY_BYTES:
            raise ValueError(f"invalid memory limit {limit}: at least {MIN_MEMORY_BYTES} bytes (4 MiB)")
        memory["limit"] = limit
        if swap > 0 and swap < limit:
            raise ValueError(f"invalid memory and swap limit {swap}: at least the memory limit, {limit} bytes")
        if swap_accounting:
            memory["swap"] = -1 if swap < 0 else swap or 2 * limit
    elif swap > 0:
        raise ValueError(f"invalid memory and swap limit {swap}: a memory limit is needed with it")
    if wanted.reservations.memory_bytes:
        memory["reservation"] = wanted.reservations.memory_bytes
    return memory


def rlimits(ulimits: Iterable[Ulimit], ceilings: Mapping[str, int]) -> list[dict[str, Any]]:
    """process.rlimits; -1 = unlimited. `ceilings` are the limits this node cannot go above. Raises ValueError."""
    ceiling = ceilings.get("nofile", _UNLIMITED)
    result = {"nofile": _rlimit("nofile", min(_NOFILE_SOFT, ceiling), min(_NOFILE_HARD, ceiling))}
    for one in ulimits:
        name = one.name.lower()
        if name not in RLIMITS:
            raise ValueError(f"unknown ulimit {one.name!r}: one of {', '.join(sorted(RLIMITS))}")
        hard = one.hard or one.soft
        soft, hard = (_UNLIMITED if value < 0 else value for value in (one.soft, hard))
        if soft > hard:
            raise ValueError(f"invalid ulimit {one.name}={one.soft}:{one.hard}: the soft limit is above the hard one")
        if hard > ceilings.get(name, _UNLIMITED):
            raise ValueError(
                f"invalid ulimit {one.name}={one.soft}:{one.hard}: this node's own limit is {ceilings[name]}"
            )
        result[name] = _rlimit(name, soft, hard)
    return list(result.values())


def _rlimit(name: str, soft: int, hard: int) -> dict[str, Any]:
    return {"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard}
