"""Virtual addresses: which tasks stand behind each, and the nftables rules that spread connections. Pure.

The rules live in the namespace of the task that connects (table `ip flota`, and `ip6 flota` on networks with IPv6): a
new connection to a service's virtual address is sent, in turn, to the address of one of its ready tasks; connection
tracking keeps it there. Nothing is between the two tasks then, and the server sees the asking task's own address. An
address without a ready task is refused at once. Established connections do not look at these rules again, so a task
that is stopping first leaves them and then finishes what it has.

A row of many tasks is a map of its own, of which only the places that change are told: else every task of the network
would have to take in all of it whenever one task of the service comes or goes. Few are part of their rule.

The task's DNS server is reached the same way: programs ask 127.0.0.11 at port 53, it listens elsewhere, and a
container may run a DNS server of its own.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from random import Random

from flota.overlay.names import virtual_addresses
from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService

# Virtual address → addresses of ready tasks.
Balance = dict[str, tuple[str, ...]]

# Virtual address → its tasks' addresses by their places in the kernel's map, for those that have a map.
Rows = dict[str, tuple[str, ...]]
# Of a map whose places an earlier process knew.
_UNKNOWN = ("?",)

_CHAIN, _ROW = "vip_", "row_"
# So many tasks have a map. It stays, however few they become.
_MANY = 50
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


def change(
    old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]], rows: Rows, random: Random
) -> tuple[str, Rows]:
    """Commands that lead from `old` to `new`, as one transaction, and what becomes of `rows` by them; "" if there is
    nothing to do.

    Every task begins at another place of the row (`random`), or all first connections would go to one task.
    """
    lines: list[str] = []
    rows = dict(rows)
    for address in sorted(old.keys() - new.keys()):
        table, name = _place(address)
        lines += [
            f"delete element {table} services {{ {address} }}",
            f"delete element {table} addresses {{ {address} }}",
            f"flush chain {table} {_CHAIN}{name}",
            f"delete chain {table} {_CHAIN}{name}",
        ]
        if rows.pop(address, None) is not None:
            lines.append(f"delete map {table} {_ROW}{name}")
    for address in sorted(new):
        if old.get(address) == new[address]:
            continue
        table, name = _place(address)
        chain = _CHAIN + name
        known = address in old
        if not known:
            lines.append(f"add chain {table} {chain}")
        if address in rows or len(new[address]) >= _MANY:
            before, rows[address] = rows.get(address), follow(rows.get(address, ()), new[address], random)
            lines += _row_change(address, before, rows[address])
            rule = _in_turn(len(rows[address]), f"@{_ROW}{name}")
            stays = before is not None and before != _UNKNOWN and len(before) == len(rows[address])
        else:
            rule, stays = _spread(new[address], random), False
        if not stays:
            lines += [f"flush chain {table} {chain}"] if known else []
            lines += [f"add rule {table} {chain} {rule}"] if new[address] else []
        if not known:
            lines.append(f"add element {table} services {{ {address} : goto {chain} }}")
            lines.append(f"add element {table} addresses {{ {address} }}")
    return "".join(f"{line}\n" for line in lines), rows


def follow(row: tuple[str, ...], wanted: Iterable[str], random: Random) -> tuple[str, ...]:
    """A row of just those `wanted`, in which as many as can be have the places that they had in `row`."""
    these = dict.fromkeys(wanted)
    there = set(row)
    fresh = [one for one in these if one not in there]
    start = random.randrange(len(fresh)) if fresh else 0
    result = [one if one in these else "" for one in row[: len(these)]]
    result += [""] * (len(these) - len(result))
    spare = [one for one in row[len(these) :] if one in these] + fresh[start:] + fresh[:start]
    for place, one in enumerate(result):
        result[place] = one or spare.pop()
    if result and len(result) != len(row):
        # Its rule is another one now, which begins with the first.
        other = random.randrange(len(result))
        result[0], result[other] = result[other], result[0]
    return tuple(result)


def _row_change(address: str, before: tuple[str, ...] | None, after: tuple[str, ...]) -> list[str]:
    """Commands that bring the map of a virtual address from `before` (None: there is none) to `after`."""
    table, name = _place(address)
    row = f"{table} {_ROW}{name}"
    lines = []
    if before is None:
        data = {4: "ip daddr", 6: "ip6 daddr"}[_version(address)]
        lines.append(f"add map {row} {{ typeof numgen inc mod 65536 : {data}; }}")
    elif before == _UNKNOWN:
        lines.append(f"flush map {row}")
    old = () if before is None or before == _UNKNOWN else before
    changed = [place for place, (one, other) in enumerate(zip_longest(old, after)) if one != other]
    if gone := [str(place) for place in changed if place < len(old)]:
        lines.append(f"delete element {row} {{ {', '.join(gone)} }}")
    if put := [f"{place} : {after[place]}" for place in changed if place < len(after)]:
        lines.append(f"add element {row} {{ {', '.join(put)} }}")
    return lines


def only_grows(old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether nothing is wrong with `old` but that more tasks could share the work."""
    return old.keys() == new.keys() and all(
        behind == new[address] or (behind and set(behind) <= set(new[address])) for address, behind in old.items()
    )


def loaded(listing: str) -> tuple[Balance, Rows]:
    """Virtual addresses that a listing of a table shows, with unknown tasks behind them (equal to none wanted)."""
    found: dict[str, list[str]] = {_CHAIN: [], _ROW: []}
    for kind, name in re.findall(rf"(?:chain|map) ({_CHAIN}|{_ROW})([0-9a-f.-]+) ", listing):
        found[kind].append(name.replace("-", ":"))
    return dict.fromkeys(found[_CHAIN], _UNKNOWN), dict.fromkeys(found[_ROW], _UNKNOWN)


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _place(address: str) -> tuple[str, str]:
    """(table, end of the names there) of a virtual address. Such a name may have no colon."""
    return f"{_TABLES[_version(address)]} flota", address.replace(":", "-")


def _spread(addresses: tuple[str, ...], random: Random) -> str:
    """The rule for a few tasks."""
    if len(addresses) < 2:
        return f"dnat to {addresses[0]}" if addresses else ""
    start = random.randrange(len(addresses))
    row = addresses[start:] + addresses[:start]
    elements = ", ".join(f"{number} : {address}" for number, address in enumerate(row))
    return _in_turn(len(row), f"{{ {elements} }}")


def _in_turn(count: int, row: str) -> str:
    return f"dnat to numgen inc mod {count} map {row}"
