"""The capabilities of a container's processes: Docker's default set, plus and minus what the spec says. Pure."""

from collections.abc import Iterable

DEFAULT = frozenset(
    f"CAP_{name}"
    for name in [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
# In the kernel's order: a capability's place is its bit.
KNOWN = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)
_ALL = "CAP_ALL"


def from_mask(mask: int) -> frozenset[str]:
    """The names of a mask's bits, as /proc/PID/status has them."""
    return frozenset(name for bit, name in enumerate(KNOWN) if mask >> bit & 1)


def effective(add: Iterable[str], drop: Iterable[str], available: frozenset[str]) -> list[str]:
    """Sorted names, all of `available`. ALL stands for every one; drop ALL leaves what is added. Raises ValueError."""
    added, dropped = set(map(_name, add)), set(map(_name, drop))
    missing = added - available - {_ALL}
    if missing:
        raise ValueError(f"this node itself does not have the capability {', '.join(sorted(missing))}")
    if _ALL in added:
        return sorted(available - dropped)
    if _ALL in dropped:
        return sorted(added)
    return sorted((DEFAULT & available | added) - dropped)


def _name(text: str) -> str:
    name = text.upper()
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name != _ALL and name not in KNOWN:
        raise ValueError(f"unknown capability {text!r}")
    return name
