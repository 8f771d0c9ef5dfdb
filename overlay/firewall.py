"""nftables rules, loaded through libnftables (the library behind `nft`), in one transaction each.

What is loaded stands in three tables that are ours alone, each named `flota`:
the node's (ways out of networks are masqueraded, and networks never reach each other through the node), a network's
(its tasks leave under the way out's address), a task's (virtual addresses). Rules of others are never touched.
Blocking: belongs on the overlay's kernel thread, in the namespace that is meant.
"""

import ctypes
import ctypes.util
from functools import cache

from flota.overlay.addresses import EXIT_RANGE
from flota.overlay.errors import KernelRefused


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("nftables") or "libnftables.so.1")
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


def load(rules: str) -> str:
    """Run nft commands in the calling thread's namespace, all or none, and return what they print."""
    library = _library()
    context = library.nft_ctx_new(0)
    if not context:
        raise KernelRefused("nftables", 0, "libnftables could not be opened")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        if library.nft_run_cmd_from_buffer(context, rules.encode()) != 0:
            reason = library.nft_ctx_get_error_buffer(context) or b""
            raise KernelRefused("nftables", 0, reason.decode(errors="replace").strip())
        return (library.nft_ctx_get_output_buffer(context) or b"").decode()
    finally:
        library.nft_ctx_free(context)


def node_rules() -> str:
    """For the node's namespace. `fl-*` are the ways out (addresses.exit_name)."""
    return f"""
table inet flota {{}}
delete table inet flota
table inet flota {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "fl-*" oifname "fl-*" drop
        oifname "fl-*" ct state established,related accept
        oifname "fl-*" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {EXIT_RANGE} oifname != "fl-*" masquerade
    }}
}}
"""


def network_rules() -> str:
    """For a network's namespace: what leaves it does so under the address of the way out."""
    return """
table inet flota {}
delete table inet flota
table inet flota {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "out0" masquerade
    }
}
"""


def remove_rules() -> str:
    """Takes our table away again, whether it is there or not."""
    return "table inet flota {}\ndelete table inet flota\n"
