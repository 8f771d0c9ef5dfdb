"""System calls a container may not make: those that reach the kernel's darker corners without asking for a capability.

Docker's profile allows some 350 calls and refuses the rest; most of that rest needs a capability that a container does
not have anyway. Refused here is what does not: above all making namespaces of one's own, in which one has every
capability. A short list costs nothing at the start of a container, and new calls of new kernels work. Pure.
"""

from collections.abc import Collection
from typing import Any

_EPERM, _ENOSYS = 1, 38
_ADMIN = "CAP_SYS_ADMIN"
# CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWNS
_NEW_NAMESPACES = 0x7E020000
# Not of any network namespace: it leads to the host of a virtual machine.
_AF_VSOCK = 40
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
# Call → the capabilities of which any makes it allowed.
_REFUSED: dict[str, tuple[str, ...]] = {
    # Key rings are the machine's, not the container's.
    "add_key": (),
    "keyctl": (),
    "request_key": (),
    # Made for debuggers and profilers, used by exploits.
    "bpf": (_ADMIN, "CAP_BPF"),
    "kcmp": ("CAP_SYS_PTRACE",),
    "lookup_dcookie": (_ADMIN,),
    "perf_event_open": (_ADMIN, "CAP_PERFMON"),
    "userfaultfd": (),
    # Works around what is allowed of other calls.
    "io_uring_enter": (),
    "io_uring_register": (),
    "io_uring_setup": (),
    # Namespaces.
    "setns": (_ADMIN,),
    "unshare": (_ADMIN,),
    # Long dead.
    "sysfs": (),
    "uselib": (),
    "ustat": (),
}


def profile(capabilities: Collection[str], architecture: str) -> dict[str, Any]:
    """linux.seccomp for a container with these capabilities."""
    names = sorted(name for name, any_of in _REFUSED.items() if not set(any_of) & set(capabilities))
    calls = [_refuse(names, _EPERM), _refuse(["socket"], _EPERM, _argument(0, _AF_VSOCK))]
    if _ADMIN not in capabilities:
        # The flags of clone3 are in memory, where a filter cannot look; libraries fall back to clone.
        calls.append(_refuse(["clone3"], _ENOSYS))
        for flag in _flags(_NEW_NAMESPACES):
            calls.append(_refuse(["clone"], _EPERM, _argument(0, flag, mask=flag)))
    result: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls}
    if architecture in _ARCHITECTURES:
        result["architectures"] = _ARCHITECTURES[architecture]
    return result


def _refuse(names: list[str], error: int, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": error, "args": list(arguments)}


def _argument(index: int, value: int, mask: int = 0) -> dict[str, Any]:
    if mask:
        return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _flags(mask: int) -> list[int]:
    return [1 << bit for bit in range(mask.bit_length()) if mask >> bit & 1]
