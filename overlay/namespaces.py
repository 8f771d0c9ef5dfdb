"""Network namespaces: make one, keep it under a name, enter it, let it go.

A namespace lives as long as something refers to it: a bind mount of its /proc entry (what `keep` makes), a process,
a socket. Entering changes the calling *thread* only, so everything here belongs on the overlay's kernel thread,
never on the event loop's.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
# Of the namespace that the thread is in.
_IPV6 = Path("/proc/sys/net/ipv6/conf")
_ROUTES = Path("/proc/thread-self/net/route")
_ROUTES_IPV6 = Path("/proc/thread-self/net/ipv6_route")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def current() -> int:
    """A new file descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(descriptor: int) -> None:
    """Move the calling thread into the namespace behind `descriptor`."""
    _check(_libc.setns(descriptor, _CLONE_NEWNET), "setns")


@contextmanager
def entered(namespace: Path, home: int) -> Iterator[None]:
    """Be in `namespace` (a kept one) for a while, then in `home` again."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(descriptor)
    finally:
        os.close(descriptor)
    try:
        yield
    finally:
        enter(home)


@contextmanager
def created(path: Path, home: int) -> Iterator[None]:
    """Make a namespace kept at `path`, be in it for a while, then in `home` again. Undone if the body fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        try:
            _check(_libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), None, _MS_BIND, None), f"mount {path}")
            yield
        finally:
            enter(home)
    except BaseException:
        forget(path)
        raise


def forget(path: Path) -> None:
    """Give up the name; the namespace goes when its last user does. No error if it is not there."""
    if not path.exists():
        return
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    path.unlink(missing_ok=True)


def kept(path: Path) -> bool:
    """Whether `path` really is a namespace (a plain file stays behind when its machine crashed)."""
    return os.path.ismount(path) or _is_namespace(path)


def _is_namespace(path: Path) -> bool:
    try:
        return path.stat().st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def has_ipv6() -> bool:
    """Whether the kernel speaks IPv6 at all."""
    return _IPV6.is_dir()


def has_default_route() -> bool:
    """Whether there is a way out of the namespace the calling thread is in, of either IP version."""
    # proc(5) has the columns: interface, destination, …, mask; and destination, its length, …, interface.
    for words in map(str.split, _ROUTES.read_text().splitlines()[1:]):
        if words[1] == words[7] == "00000000":
            return True
    routes = _ROUTES_IPV6.read_text().splitlines() if _ROUTES_IPV6.exists() else []
    # (The kernel's own, which refuses, is on lo.)
    return any(set(words[0]) == {"0"} and words[1] == "00" and words[-1] != "lo" for words in map(str.split, routes))


def forward_ipv6() -> None:
    """Pass packets of IPv6 on, in the namespace the calling thread is in.

    A kernel that forwards no longer listens to routers, from whom the machine may have its address and default route:
    interfaces that do so are told to go on (accept_ra 1 becomes 2).
    """
    for interface in _IPV6.iterdir() if _IPV6.is_dir() else ():
        listens = interface / "accept_ra"
        if interface.name not in ("all", "default") and listens.read_text().strip() == "1":
            listens.write_text("2")
    set_sysctl("ipv6.conf.all.forwarding", "1")


def set_sysctl(name: str, value: str) -> None:
    """Write net.`name` of the namespace the calling thread is in. Absent ones (no IPv6, say) are left out."""
    file = Path("/proc/sys/net") / name.replace(".", "/")
    try:
        file.write_text(value)
    except FileNotFoundError:
        return
