"""Backups: the whole store at one moment, as a file (rpc/backups.py)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from flota.manager.clock import timestamp
from flota.manager.control.base import ControlBase
from flota.manager.store.schema import word_of
from flota.rpc.backups import write_backup
from flota.rpc.errors import FailedPrecondition
from flota.rpc.staleness import why_stale
from flota.v1.control_pb2 import CreateBackupMessage, CreateBackupRequest
from flota.v1.store_pb2 import BackupHeader


class Backups(ControlBase):
    """The call that makes one."""

    async def CreateBackup(self, request: CreateBackupRequest, context: Any) -> AsyncIterator[CreateBackupMessage]:
        """Everything that was committed before the call, on this manager; it goes on serving meanwhile."""
        store = await self._fresh()
        cluster = store.cluster
        if cluster is None:
            raise FailedPrecondition("this swarm is not set up yet")
        # No await from here to the next comment: all of it is one moment of the store.
        things = store.everything()
        write = store.snapshot()
        own = store.nodes.get(self._own_node_id)
        header = BackupHeader(
            cluster_id=cluster.id,
            created_at=timestamp(self._clock.now()),
            node_id=self._own_node_id,
            hostname=own.description.hostname if own is not None else "",
            software=version("flota"),
            index=store.index,
            stale=why_stale(),
        )
        # Writing it out is left to a thread.
        for word, count in (await asyncio.to_thread(lambda: Counter(map(word_of, things)))).items():
            header.objects[word] = count
        pieces = write_backup(header, write(), cluster.unlock_key)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield CreateBackupMessage(data=piece)
