"""MAC addresses, which follow from IP addresses: every node comes to the same one without asking."""

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=65536)
def mac_of(address: str) -> str:
    """MAC of a task's interface: 02:42 and the IPv4 address, or a digest of an IPv6 one. Raises ValueError."""
    parsed = ipaddress.ip_address(address.partition("/")[0])
    return mac_text(b"\x02\x42" + four_bytes(parsed))


def four_bytes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """An IPv4 address, or a digest of an IPv6 one."""
    packed = address.packed
    if len(packed) == 4:
        return packed
    folded = bytearray(4)
    for position, byte in enumerate(packed):
        # Rotating multiply-and-add: neighbours in a subnet differ in the last bytes, which must not cancel out.
        folded[position % 4] = (folded[position % 4] * 31 + byte) & 0xFF
    return bytes(folded)


def mac_text(packed: bytes) -> str:
    """Six bytes as people write them."""
    return ":".join(f"{byte:02x}" for byte in packed)
