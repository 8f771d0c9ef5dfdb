"""Loads the rules of balance.py into tasks' namespaces, and ends connections whose other end is gone."""

import asyncio
from collections.abc import Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from flota.overlay import balance, libnftables
from flota.overlay.addresses import task_namespace
from flota.overlay.balance import Balance, Rows
from flota.overlay.connections import end_connections
from flota.overlay.dns.server import ADDRESS, PORT
from flota.overlay.kernel import NamespaceThreads

# Seconds between two loads that only add tasks to share the work.
PACE = 0.25


@dataclass
class _Loaded:
    """What a task's namespace has, and since when. `seen` are addresses that connections may have been sent to."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    balance: Balance = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    at: float = 0.0
    has_ipv6: bool = False


class Balancer:
    """Virtual addresses in the namespaces of this node's tasks: side by side for all, in order for each."""

    def __init__(self, run_directory: Path, threads: NamespaceThreads, random: Random) -> None:
        self._run_directory = run_directory
        self._threads = threads
        self._random = random
        self._tasks: dict[str, _Loaded] = {}

    async def add(self, task_id: str, wanted: Balance) -> None:
        """Load the table of a new namespace."""
        loaded = self._tasks[task_id] = _Loaded()
        async with loaded.lock:
            await self._load(task_id, loaded, balance.base_rules(ADDRESS, PORT), wanted)

    async def adopt(self, task_id: str) -> None:
        """Take over a namespace of an earlier process. Its table stays as it is until the first `update`."""
        loaded = self._tasks[task_id] = _Loaded()
        async with loaded.lock:
            namespace = task_namespace(self._run_directory, task_id)
            tables = await self._threads.inside(namespace, lambda: libnftables.load("list tables ip6"))
            loaded.has_ipv6 = "table ip6 flota" in tables
            # One at a time: the library would look for the first in what it read for the last.
            for listed in ("list table ip flota", *(["list table ip6 flota"] if loaded.has_ipv6 else [])):
                listing = await self._threads.inside(namespace, partial(libnftables.load, listed))
                addresses, rows = balance.loaded(listing)
                loaded.balance |= addresses
                loaded.rows |= rows

    async def update(self, task_id: str, wanted: Balance, alive: Set[str]) -> None:
        """Make the rules be `wanted`. Connections to addresses that are no longer `alive` are ended."""
        loaded = self._tasks.get(task_id)
        if loaded is None:
            return
        async with loaded.lock:
            await self._load(task_id, loaded, "", wanted)
            gone = loaded.seen - alive
            if gone:
                namespace = task_namespace(self._run_directory, task_id)
                await self._threads.inside(namespace, lambda: end_connections(gone))
                loaded.seen -= gone

    def may_wait(self, task_id: str, wanted: Balance) -> bool:
        """Whether the task can do without `wanted` for a moment: it would only add tasks to those that answer, and
        was told of others just before. A service that starts many tasks would have every task on its network load new
        rules at each of them.
        """
        loaded = self._tasks.get(task_id)
        return (
            loaded is not None
            and asyncio.get_running_loop().time() - loaded.at < PACE
            and loaded.balance != wanted
            and balance.only_grows(loaded.balance, wanted)
        )

    def forget(self, task_id: str) -> None:
        """The task's namespace goes, and its table with it."""
        self._tasks.pop(task_id, None)

    async def _load(self, task_id: str, loaded: _Loaded, before: str, wanted: Balance) -> None:
        needs_ipv6 = not loaded.has_ipv6 and balance.needs_ipv6(wanted)
        tables = before + (balance.ipv6_rules() if needs_ipv6 else "")
        changes, rows = balance.change(loaded.balance, wanted, loaded.rows, self._random)
        rules = tables + changes
        if rules:
            namespace = task_namespace(self._run_directory, task_id)
            await self._threads.inside(namespace, lambda: libnftables.load(rules))
            loaded.at = asyncio.get_running_loop().time()
            loaded.has_ipv6 = loaded.has_ipv6 or needs_ipv6
        loaded.balance, loaded.rows = dict(wanted), rows
        loaded.seen.update(address for addresses in wanted.values() for address in addresses)
