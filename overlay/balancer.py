"""Loads the rules of balance.py into tasks' namespaces, and ends connections whose other end is gone.

Every namespace has its own table, and the kernel takes some ten milliseconds to let go of a rule that is replaced
(it waits for its readers). So this has threads of its own: tasks are served side by side, in order for each, and never
in the way of a task that is being attached.
"""

import asyncio
import socket
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from pyroute2 import NFCTSocket
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

from flota.overlay import balance, firewall, namespaces
from flota.overlay.addresses import task_namespace
from flota.overlay.balance import Balance
from flota.overlay.dns.server import ADDRESS, PORT

T = TypeVar("T")

_THREADS = 8


@dataclass
class _Loaded:
    """What a task's namespace has. `seen` are addresses that connections may have been sent to."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    balance: Balance = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


class Balancer:
    """Virtual addresses in the namespaces of this node's tasks. `home` is the node's namespace."""

    def __init__(self, run_directory: Path, home: int, random: Random) -> None:
        self._run_directory = run_directory
        self._home = home
        self._random = random
        self._tasks: dict[str, _Loaded] = {}
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="overlay-balancer")

    async def add(self, task_id: str, wanted: Balance) -> None:
        """Load the table of a new namespace."""
        loaded = self._tasks[task_id] = _Loaded()
        async with loaded.lock:
            await self._load(task_id, loaded, balance.base_rules(ADDRESS, PORT), wanted)

    async def adopt(self, task_id: str) -> None:
        """Take over a namespace of an earlier process. Its table stays as it is until the first `update`."""
        loaded = self._tasks[task_id] = _Loaded()
        async with loaded.lock:
            listing = await self._inside(task_id, lambda: firewall.load("list table ip flota"))
            loaded.balance = balance.loaded(listing)

    async def update(self, task_id: str, wanted: Balance, alive: Set[str]) -> None:
        """Make the rules be `wanted`. Connections to addresses that are no longer `alive` are ended."""
        loaded = self._tasks.get(task_id)
        if loaded is None:
            return
        async with loaded.lock:
            await self._load(task_id, loaded, "", wanted)
            gone = loaded.seen - alive
            if gone:
                await self._inside(task_id, lambda: _end_connections(gone))
                loaded.seen -= gone

    def forget(self, task_id: str) -> None:
        """The task's namespace goes, and its table with it."""
        self._tasks.pop(task_id, None)

    def stop(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _load(self, task_id: str, loaded: _Loaded, before: str, wanted: Balance) -> None:
        rules = before + balance.change(loaded.balance, wanted, self._random)
        if rules:
            await self._inside(task_id, lambda: firewall.load(rules))
        loaded.balance = dict(wanted)
        loaded.seen.update(address for addresses in wanted.values() for address in addresses)

    async def _inside(self, task_id: str, function: Callable[[], T]) -> T:
        """Run `function` on a thread that is in the task's namespace."""
        namespace = task_namespace(self._run_directory, task_id)

        def there() -> T:
            with namespaces.entered(namespace, self._home):
                return function()

        return await asyncio.get_running_loop().run_in_executor(self._threads, there)


def _end_connections(addresses: Set[str]) -> None:
    """Forget tracked connections to these tasks: the client's next packet goes to a live one, which resets it."""
    with NFCTSocket() as tracker:
        for entry in list(tracker.dump()):
            reply, original = _tuple(entry, "CTA_TUPLE_REPLY"), _tuple(entry, "CTA_TUPLE_ORIG")
            # An address that was translated: the answer comes from elsewhere than the question went.
            if reply.saddr in addresses and original.daddr != reply.saddr:
                tracker.entry("del", tuple_orig=original)


def _tuple(entry: object, name: str) -> NFCTAttrTuple:
    found = entry.get_attr(name)  # type: ignore[attr-defined]
    address, protocol = found.get_attr("CTA_TUPLE_IP"), found.get_attr("CTA_TUPLE_PROTO")
    return NFCTAttrTuple(
        family=socket.AF_INET,
        saddr=address.get_attr("CTA_IP_V4_SRC"),
        daddr=address.get_attr("CTA_IP_V4_DST"),
        proto=protocol.get_attr("CTA_PROTO_NUM"),
        sport=protocol.get_attr("CTA_PROTO_SRC_PORT"),
        dport=protocol.get_attr("CTA_PROTO_DST_PORT"),
        icmp_id=protocol.get_attr("CTA_PROTO_ICMP_ID"),
        icmp_type=protocol.get_attr("CTA_PROTO_ICMP_TYPE"),
        icmp_code=protocol.get_attr("CTA_PROTO_ICMP_CODE"),
    )
