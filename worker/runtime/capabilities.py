"""The capabilities of a container's processes: Docker's default set, plus and minus what the spec says. Pure."""

from collections.abc import Iterable

DEFAULT = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
KNOWN = (
    *DEFAULT,
    *(
        f"CAP_{name}"
        for name in [
            "AUDIT_CONTROL",
            "AUDIT_READ",
            "BLOCK_SUSPEND",
            "BPF",
            "CHECKPOINT_RESTORE",
            "DAC_READ_SEARCH",
            "IPC_LOCK",
            "IPC_OWNER",
            "LEASE",
            "LINUX_IMMUTABLE",
            "MAC_ADMIN",
            "MAC_OVERRIDE",
            "NET_ADMIN",
            "NET_BROADCAST",
            "PERFMON",
            "SYS_ADMIN",
            "SYS_BOOT",
            "SYS_MODULE",
            "SYS_NICE",
            "SYS_PACCT",
            "SYS_PTRACE",
            "SYS_RAWIO",
            "SYS_RESOURCE",
            "SYS_TIME",
            "SYS_TTY_CONFIG",
            "SYSLOG",
            "WAKE_ALARM",
        ]
    ),
)
_ALL = "CAP_ALL"


def effective(add: Iterable[str], drop: Iterable[str]) -> list[str]:
    """Sorted names. ALL stands for every one; drop ALL leaves what is added. Raises ValueError."""
    added, dropped = set(map(_name, add)), set(map(_name, drop))
    if _ALL in added:
        return sorted(set(KNOWN) - dropped)
    if _ALL in dropped:
        return sorted(added)
    return sorted((set(DEFAULT) | added) - dropped)


def _name(text: str) -> str:
    name = text.upper()
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name != _ALL and name not in KNOWN:
        raise ValueError(f"unknown capability {text!r}")
    return name
