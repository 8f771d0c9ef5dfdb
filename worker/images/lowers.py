"""What a stack of unpacked layers shows at a path: whiteouts and opaque directories hide what is below (overlayfs).

Looked up by hand, without mounting anything, for a layer that is being unpacked on top of them.
"""

import os
import stat
from collections.abc import Collection, Sequence

OPAQUE_ATTRIBUTE = "trusted.overlay.opaque"


def find_below(layers: Sequence[int], path: str, opaque: Collection[str]) -> tuple[int, str] | None:
    """What `layers` (descriptors, the highest first) show at `path`: a directory, opened for the caller to close, and a
    name in it. Nothing shows through `opaque` directories of the layer above them."""
    *folders, base = path.split("/")
    if any("/".join(folders[:count]) in opaque for count in range(len(folders) + 1)) or path in opaque:
        return None
    for layer in layers:
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=layer)
        try:
            hidden = False
            for folder in folders:
                inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = inside
                hidden = hidden or _is_opaque(here)
            status = os.lstat(base, dir_fd=here)
            if _is_whiteout(status):
                return None
            return os.dup(here), base
        except FileNotFoundError:
            if hidden:
                return None
        except NotADirectoryError:
            # A file, a link or a whiteout: it hides whatever is further below.
            return None
        finally:
            os.close(here)
    return None


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OPAQUE_ATTRIBUTE) == b"y"
    except OSError:
        return False


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
