"""libnftables, the library behind `nft`: one copy of it for each thread.

The library keeps the generation of the ruleset it reads in a static variable. Two threads at work in two namespaces
take each other's number for a change of the ruleset and begin to read it again, and again: with eight threads a load of
some milliseconds takes seconds. A copy of the file in memory is another library to the loader, with variables of its
own. Never knows what the commands mean. Blocking: belongs on a thread that is in the namespace that is meant.
"""

import ctypes
import os
import threading
from functools import cache
from pathlib import Path

from flota.overlay.errors import KernelRefused

_NAME = "libnftables.so.1"


class _Address(ctypes.Structure):
    """As dladdr(3) fills it."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@cache
def _file() -> Path:
    """Where the loader finds the library."""
    function = ctypes.cast(ctypes.CDLL(_NAME).nft_ctx_new, ctypes.c_void_p)
    found = _Address()
    if not ctypes.CDLL(None).dladdr(function, ctypes.byref(found)):
        raise KernelRefused("nftables", 0, f"the loader does not say where {_NAME} is")
    return Path(os.fsdecode(found.file))


def _copy() -> ctypes.CDLL:
    descriptor = os.memfd_create(_NAME)
    try:
        content = memoryview(_file().read_bytes())
        while content:
            content = content[os.write(descriptor, content) :]
        # The loader takes two files of one name for one library, and descriptors' numbers are used again: the thread's
        # id is in the name. (A dead thread's id, and with it its copy, may pass to another.)
        library = ctypes.CDLL(f"/proc/self/task/{threading.get_native_id()}/fd/{descriptor}")
    finally:
        os.close(descriptor)
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
    library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_output_buffer.argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


_own = threading.local()


def _library() -> ctypes.CDLL:
    """The calling thread's copy."""
    found: ctypes.CDLL | None = getattr(_own, "library", None)
    if found is None:
        found = _own.library = _copy()
    return found


def load(commands: str) -> str:
    """Run nft commands in the calling thread's namespace, all or none, and return what they print.

    Raises KernelRefused.
    """
    library = _library()
    context = library.nft_ctx_new(0)
    if not context:
        raise KernelRefused("nftables", 0, "libnftables could not be opened")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        if library.nft_run_cmd_from_buffer(context, commands.encode()) != 0:
            reason = library.nft_ctx_get_error_buffer(context) or b""
            raise KernelRefused("nftables", 0, reason.decode(errors="replace").strip())
        return (library.nft_ctx_get_output_buffer(context) or b"").decode()
    finally:
        library.nft_ctx_free(context)
