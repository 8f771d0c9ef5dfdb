"""Numbers that are given out and come back: addresses of one subnet, identifiers, ports.

In memory only. The next number is always looked for behind the last one given, going round, so a number that has come
back is used again as late as possible: whoever still remembers its last owner has time to forget.
"""

import ipaddress
from collections.abc import Iterable


class Exhausted(Exception):
    """Nothing is free; the message says of what."""


class Taken(Exception):
    """The number asked for is in use, or not one of these."""


class Numbers:
    """Integers from `first` to `last`, both included."""

    def __init__(self, first: int, last: int, what: str) -> None:
        self._first = first
        self._last = last
        self._what = what
        self._next = first
        self._taken: set[int] = set()

    def give(self) -> int:
        """A free one. Raises Exhausted."""
        size = self._last - self._first + 1
        if len(self._taken) >= size:
            raise Exhausted(f"no free {self._what} (all {size:,} are in use)")
        number = self._next
        while number in self._taken:
            number = number + 1 if number < self._last else self._first
        self.take(number)
        return number

    def take(self, number: int) -> None:
        """This one. Raises Taken."""
        if not self._first <= number <= self._last or number in self._taken:
            raise Taken(f"{self._what} {number} is in use or out of range")
        self._taken.add(number)
        self._next = number + 1 if number < self._last else self._first

    def begin_at(self, number: int) -> None:
        """Look for the next free one from here on."""
        self._next = number

    def free(self, number: int) -> None:
        """It is not used any longer."""
        self._taken.discard(number)

    def __contains__(self, number: int) -> bool:
        return number in self._taken

    def __len__(self) -> int:
        return len(self._taken)


class Subnet:
    """The addresses of one subnet, IPv4 or IPv6. Network, broadcast and gateway addresses are never given."""

    def __init__(
        self, subnet: str, gateway: str = "", range: str = "", reserved: Iterable[str] = (), network: str = ""
    ) -> None:
        self.network = ipaddress.ip_network(subnet)
        first, last = int(self.network.network_address), int(self.network.broadcast_address)
        if self.network.prefixlen < self.network.max_prefixlen - 1:
            first, last = first + 1, last - 1
        self._address = ipaddress.IPv4Address if self.network.version == 4 else ipaddress.IPv6Address
        self.gateway = ipaddress.ip_address(gateway) if gateway else self._address(first)
        self._first, self._last = first, last
        part = ipaddress.ip_network(range) if range else self.network
        low, high = max(first, int(part.network_address)), min(last, int(part.broadcast_address))
        self._free = Numbers(low, high, f"address in {subnet}" + (f" of network {network}" if network else ""))
        # Asked for by address, outside the range others are given from.
        self._outside: set[int] = set()
        for address in (self.gateway, *map(ipaddress.ip_address, reserved)):
            if low <= int(address) <= high and int(address) not in self._free:
                self._free.take(int(address))
        self._free.begin_at(low)

    def give(self) -> str:
        """A free address with its prefix length: "10.0.1.5/24". Raises Exhausted."""
        return f"{self._address(self._free.give())}/{self.network.prefixlen}"

    def take(self, address: str) -> str:
        """This address (with or without prefix length). Raises Taken."""
        wanted = ipaddress.ip_address(address.partition("/")[0])
        number = int(wanted)
        if not self._first <= number <= self._last:
            raise Taken(f"address {wanted} is not one of {self.network}")
        try:
            self._free.take(number)
        except Taken:
            if number in self._free or number in self._outside:
                raise Taken(f"address {wanted} is in use") from None
            self._outside.add(number)
        return f"{wanted}/{self.network.prefixlen}"

    def free(self, address: str) -> None:
        """It is not used any longer."""
        number = int(ipaddress.ip_address(address.partition("/")[0]))
        self._free.free(number)
        self._outside.discard(number)
