"""Receive packet steering: packets that come in through a device are worked on by all processors.

wireguard-go hands packets to the kernel one by one, and its writing thread would take each of them through VXLAN, the
bridge and the task's TCP before it takes the next. Steered, they wait for the processor of their flow, which finds
several when it comes to them: VXLAN joins those (GRO), and everything behind it is done once for all of them.

The setting is in sysfs only, which shows the namespace it was mounted in: it is mounted for that of the calling thread
(Linux 5.2), and attached nowhere. Blocking: belongs on the overlay's kernel thread.
"""

import ctypes
import os

_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6

_libc = ctypes.CDLL(None, use_errno=True)


def steer(device: str) -> None:
    """Let all processors work on what comes in through `device` of the thread's namespace. Raises OSError."""
    processors = os.cpu_count() or 1
    if processors == 1:
        return
    sysfs = _mounted_sysfs()
    try:
        queue = os.open(f"class/net/{device}/queues/rx-0/rps_cpus", os.O_WRONLY | os.O_CLOEXEC, dir_fd=sysfs)
        try:
            os.write(queue, mask(processors).encode())
        finally:
            os.close(queue)
    finally:
        os.close(sysfs)


def mask(processors: int) -> str:
    """The first so many processors as the kernel writes a set of them: words of 32 bits, the highest first."""
    digits = f"{(1 << processors) - 1:x}"
    digits = digits.zfill(len(digits) + -len(digits) % 8)
    return ",".join(digits[start : start + 8] for start in range(0, len(digits), 8))


def _mounted_sysfs() -> int:
    """A descriptor of sysfs as the thread's network namespace has it."""
    context = _call(_SYS_FSOPEN, b"sysfs", _FSOPEN_CLOEXEC)
    try:
        _call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _call(number: int, *arguments: bytes | int | None) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount of sysfs: {os.strerror(code)}")
    return result
