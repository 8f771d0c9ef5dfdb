"""Virtual addresses: which tasks stand behind each, and the nftables rules that spread connections. Pure.

The rules live in the namespace of the task that connects (table `ip flota`, and `ip6 flota` on networks with IPv6): a
new connection to a service's virtual address is sent, in turn, to the address of one of its ready tasks; connection
tracking keeps it there. Nothing is between the two tasks then, and the server sees the asking task's own address. An
address without a ready task is refused at once. Established connections do not look at these rules again, so a task
that is stopping first leaves them and then finishes what it has.

The task's DNS server is reached the same way: programs ask 127.0.0.11 at port 53, it listens elsewhere, and a
container may run a DNS server of its own.
"""

import re
from collections.abc import Iterable, Mapping
from random import Random

from flota.overlay.names import virtual_addresses
from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService

# Virtual address → addresses of ready tasks.
Balance = dict[str, tuple[str, ...]]

_CHAIN = "vip_"
# nft's names for each version's tables, addresses and refusals.
_TABLES = {4: "ip", 6: "ip6"}
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_REFUSALS = {4: "icmp type host-unreachable", 6: "icmpv6 type addr-unreachable"}


def wanted(services: Iterable[NetworkService], peers: Iterable[NetworkPeer]) -> Balance:
    """What stands behind the virtual addresses of one network."""
    result: Balance = {}
    behind: dict[str, tuple[str, ...]] = {}
    for service in services:
        if addresses := virtual_addresses(service):
            behind[service.service_id] = addresses
            result |= dict.fromkeys(addresses, ())
    ready: dict[tuple[str, int], list[str]] = {}
    for peer in peers:
        if peer.ready and peer.service_id in behind:
            for address in peer.addresses:
                ready.setdefault((peer.service_id, _version(address)), []).append(address.partition("/")[0])
    for service_id, virtuals in behind.items():
        for virtual in virtuals:
            result[virtual] = tuple(sorted(ready.get((service_id, _version(virtual)), ())))
    return result


def base_rules(resolver: str, port: int) -> str:
    """The table of a task's namespace, empty but for its DNS server (which listens at `resolver`:`port`)."""
    names = f"""
        ip daddr {resolver} udp dport 53 dnat to {resolver}:{port}
        ip daddr {resolver} tcp dport 53 dnat to {resolver}:{port}"""
    return _table(4, names)


def ipv6_rules() -> str:
    """The table for virtual addresses of IPv6, empty. Tasks on networks without IPv6 do without it."""
    return _table(6)


def needs_ipv6(balance: Balance) -> bool:
    return any(":" in address for address in balance)


def _table(version: int, first: str = "") -> str:
    table = _TABLES[version]
    return f"""
table {table} flota {{
    map services {{ type {_TYPES[version]} : verdict; }}
    set addresses {{ type {_TYPES[version]}; }}
    chain output {{
        type nat hook output priority -100; policy accept;{first}
        {table} daddr vmap @services
    }}
    chain refuse {{
        type filter hook output priority filter; policy accept;
        ct state established accept
        {table} daddr @addresses meta l4proto tcp reject with tcp reset
        {table} daddr @addresses reject with {_REFUSALS[version]}
    }}
}}
"""


def change(old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]], random: Random) -> str:
    """Commands that lead from `old` to `new`, as one transaction; "" if there is nothing to do.

    Every task begins at another place of the row (`random`), or all first connections would go to one task.
    """
    lines: list[str] = []
    for address in sorted(old.keys() - new.keys()):
        table, chain = _place(address)
        lines += [
            f"delete element {table} services {{ {address} }}",
            f"delete element {table} addresses {{ {address} }}",
            f"flush chain {table} {chain}",
            f"delete chain {table} {chain}",
        ]
    for address in sorted(new):
        if old.get(address) == new[address]:
            continue
        table, chain = _place(address)
        known = address in old
        lines.append(f"flush chain {table} {chain}" if known else f"add chain {table} {chain}")
        if new[address]:
            lines.append(f"add rule {table} {chain} {_spread(new[address], random)}")
        if not known:
            lines.append(f"add element {table} services {{ {address} : goto {chain} }}")
            lines.append(f"add element {table} addresses {{ {address} }}")
    return "".join(f"{line}\n" for line in lines)


def only_grows(old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether nothing is wrong with `old` but that more tasks could share the work."""
    return old.keys() == new.keys() and all(
        behind == new[address] or (behind and set(behind) <= set(new[address])) for address, behind in old.items()
    )


def loaded(listing: str) -> Balance:
    """Virtual addresses that a listing of the tables shows, with unknown tasks behind them (equal to none wanted)."""
    found = re.findall(rf"chain {_CHAIN}([0-9a-f.-]+) ", listing)
    return dict.fromkeys((name.replace("-", ":") for name in found), ("?",))


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _place(address: str) -> tuple[str, str]:
    """(table, chain) of a virtual address. A chain's name may have no colon."""
    return f"{_TABLES[_version(address)]} flota", _CHAIN + address.replace(":", "-")


def _spread(addresses: tuple[str, ...], random: Random) -> str:
    if len(addresses) == 1:
        return f"dnat to {addresses[0]}"
    start = random.randrange(len(addresses))
    row = addresses[start:] + addresses[:start]
    elements = ", ".join(f"{number} : {address}" for number, address in enumerate(row))
    return f"dnat to numgen inc mod {len(row)} map {{ {elements} }}"
