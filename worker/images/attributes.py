"""Owner, mode, extended attributes and time of what is unpacked, by its path (links are not followed) or descriptor."""

import errno
import os
import stat

# overlayfs keeps its own state in these.
_OVERLAY_ATTRIBUTES = ("trusted.overlay.", "user.overlay.")


def chown(place: str | int, uid: int, gid: int) -> None:
    """Costs set-id bits and capabilities, so it comes first. Raises OSError, as all of these."""
    if isinstance(place, int):
        os.fchown(place, uid, gid)
    else:
        os.lchown(place, uid, gid)


def set_time(place: str | int, time: int) -> None:
    """In nanoseconds since 1970."""
    if isinstance(place, int):
        os.utime(place, ns=(time, time))
    else:
        os.utime(place, ns=(time, time), follow_symlinks=False)


def set_xattr(place: str | int, name: str, value: bytes) -> None:
    """But for what overlayfs would take for its own, and what the file system here does not have."""
    if name.startswith(_OVERLAY_ATTRIBUTES):
        return
    try:
        if isinstance(place, int):
            os.setxattr(place, name, value)
        else:
            os.setxattr(place, name, value, follow_symlinks=False)
    except OSError as error:
        # A name no file system here knows, or a user's attribute where only files and directories have them.
        if error.errno != errno.EOPNOTSUPP and not (error.errno == errno.EPERM and name.startswith("user.")):
            raise


def copy_attributes(source: int, target: str | int) -> int:
    """All but the time, which is the result."""
    status = os.fstat(source)
    chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        set_xattr(target, name, os.getxattr(source, name))
    return status.st_mtime_ns
