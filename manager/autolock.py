"""Keeps this manager's keys as the cluster wants them, and tells the daemon what it needs to start us again.

The unlock key stands in the cluster object, so every manager learns of a new one through Raft and renews its own
directory's keys by itself (SwarmKit's manager.updateKEK). A manager that is down meanwhile keeps the old key until it
has caught up. The daemon hears of a key before it is used: should we end in between, it can give us either.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import structlog

from flota.manager.raft.node import RaftNode
from flota.manager.store import Store, WatchClosed
from flota.v1.local_pb2 import ManagerReport, WatchManagerRequest
from flota.v1.local_pb2_grpc import ManagerHereServicer

_log = structlog.get_logger("autolock")
_RETRY = 1.0


class ManagerHere(ManagerHereServicer):
    """What the daemon is told; may be added to a server before there is a Raft member."""

    def __init__(self) -> None:
        self._report: ManagerReport | None = None
        self._changed = asyncio.Event()

    def tell(self, report: ManagerReport) -> None:
        """This is so from now on."""
        if report != self._report:
            self._report = report
            self._changed.set()
            self._changed = asyncio.Event()

    async def WatchManager(self, request: WatchManagerRequest, context: Any) -> AsyncIterator[ManagerReport]:
        """The report, now and whenever it changes."""
        sent: ManagerReport | None = None
        while True:
            changed = self._changed
            if self._report is not None and self._report is not sent:
                sent = self._report
                yield sent
                continue
            await changed.wait()


class Autolock:
    """One per manager process; `run` it while the process lives."""

    def __init__(self, store: Store, raft: RaftNode, here: ManagerHere) -> None:
        self._store = store
        self._raft = raft
        self._here = here

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_keys())
            group.create_task(self._follow_trouble())

    async def _follow_keys(self) -> None:
        while True:
            with self._store.watch("cluster") as changes:
                try:
                    while True:
                        await self._renew_until_right()
                        await changes.next()
                except WatchClosed:
                    continue

    async def _renew_until_right(self) -> None:
        while self._wanted() != self._current():
            wanted = self._wanted()
            self._tell(coming=wanted)
            try:
                await self._raft.renew_keys(wanted)
                _log.info("this manager's keys were renewed", locked=wanted is not None)
            except OSError as error:
                _log.error("this manager's keys cannot be renewed yet", reason=str(error))
                await asyncio.sleep(_RETRY)
        self._tell()

    def _wanted(self) -> bytes | None:
        """The unlock key; None: no autolock."""
        cluster = self._store.cluster
        if cluster is None:
            return self._current()
        return (cluster.unlock_key or None) if cluster.spec.encryption.auto_lock_managers else None

    def _current(self) -> bytes | None:
        keys = self._raft.keys
        return keys.kek if keys.locked else None

    def _tell(self, coming: bytes | None = None) -> None:
        keys = self._raft.keys
        known = [key for key in (self._current(), coming) if key is not None]
        self._here.tell(
            ManagerReport(
                unlock_keys=list(dict.fromkeys(known)),
                locked=keys.locked,
                identity_secrets=keys.identity_secrets,
                trouble=self._raft.disk_trouble,
            )
        )

    async def _follow_trouble(self) -> None:
        async for _ in self._raft.troubles():
            self._tell()
