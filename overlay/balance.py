"""Virtual addresses: which tasks stand behind each, and the nftables rules that spread connections. Pure.

The rules live in the namespace of the task that connects (table `ip flota`): a new connection to a service's virtual
address is sent, in turn, to the address of one of its ready tasks; connection tracking keeps it there. Nothing is
between the two tasks then, and the server sees the asking task's own address. An address without a ready task is
refused at once. Established connections do not look at these rules again, so a task that is stopping first leaves
them and then finishes what it has.

The task's DNS server is reached the same way: programs ask 127.0.0.11 at port 53, it listens elsewhere, and a
container may run a DNS server of its own.
"""

import re
from collections.abc import Iterable, Mapping
from random import Random

from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from flota.v1.types_pb2 import EndpointSpec

# Virtual address → addresses of ready tasks.
Balance = dict[str, tuple[str, ...]]

_CHAIN = "vip_"


def wanted(services: Iterable[NetworkService], peers: Iterable[NetworkPeer]) -> Balance:
    """What stands behind the virtual addresses of one network (IPv4)."""
    result: Balance = {}
    behind: dict[str, list[str]] = {}
    for service in services:
        address = service.virtual_ip.partition("/")[0]
        if address and ":" not in address and service.mode == EndpointSpec.MODE_VIP:
            result[address] = ()
            behind.setdefault(service.service_id, []).append(address)
    ready: dict[str, list[str]] = {}
    for peer in peers:
        if peer.ready and peer.service_id in behind:
            ready.setdefault(peer.service_id, []).extend(
                address.partition("/")[0] for address in peer.addresses if ":" not in address
            )
    for service_id, addresses in ready.items():
        for virtual in behind[service_id]:
            result[virtual] = tuple(sorted(addresses))
    return result


def base_rules(resolver: str, port: int) -> str:
    """The table of a task's namespace, empty but for its DNS server (which listens at `resolver`:`port`)."""
    return f"""
table ip flota {{
    map services {{ type ipv4_addr : verdict; }}
    set addresses {{ type ipv4_addr; }}
    chain output {{
        type nat hook output priority -100; policy accept;
        ip daddr {resolver} udp dport 53 dnat to {resolver}:{port}
        ip daddr {resolver} tcp dport 53 dnat to {resolver}:{port}
        ip daddr vmap @services
    }}
    chain refuse {{
        type filter hook output priority filter; policy accept;
        ip daddr @addresses meta l4proto tcp reject with tcp reset
        ip daddr @addresses reject with icmp type host-unreachable
    }}
}}
"""


def change(old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]], random: Random) -> str:
    """Commands that lead from `old` to `new`, as one transaction; "" if there is nothing to do.

    Every task begins at another place of the row (`random`), or all first connections would go to one task.
    """
    lines: list[str] = []
    for address in sorted(old.keys() - new.keys()):
        chain = f"{_CHAIN}{address}"
        lines += [
            f"delete element ip flota services {{ {address} }}",
            f"delete element ip flota addresses {{ {address} }}",
            f"flush chain ip flota {chain}",
            f"delete chain ip flota {chain}",
        ]
    for address in sorted(new):
        if old.get(address) == new[address]:
            continue
        chain = f"{_CHAIN}{address}"
        known = address in old
        lines.append(f"flush chain ip flota {chain}" if known else f"add chain ip flota {chain}")
        if new[address]:
            lines.append(f"add rule ip flota {chain} {_spread(new[address], random)}")
        if not known:
            lines.append(f"add element ip flota services {{ {address} : goto {chain} }}")
            lines.append(f"add element ip flota addresses {{ {address} }}")
    return "".join(f"{line}\n" for line in lines)


def only_grows(old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether nothing is wrong with `old` but that more tasks could share the work."""
    return old.keys() == new.keys() and all(
        behind == new[address] or (behind and set(behind) <= set(new[address])) for address, behind in old.items()
    )


def loaded(listing: str) -> Balance:
    """Virtual addresses that a listing of the table shows, with unknown tasks behind them (equal to nothing wanted)."""
    return dict.fromkeys(re.findall(rf"chain {_CHAIN}([0-9.]+) ", listing), ("?",))


def _spread(addresses: tuple[str, ...], random: Random) -> str:
    if len(addresses) == 1:
        return f"dnat to {addresses[0]}"
    start = random.randrange(len(addresses))
    row = addresses[start:] + addresses[:start]
    elements = ", ".join(f"{number} : {address}" for number, address in enumerate(row))
    return f"dnat to numgen inc mod {len(row)} map {{ {elements} }}"
