"""What a decision is made of, and how it is committed.

A decision function reads and gives back groups of writes; each group is atomic, the groups are independent. `commit`
packs groups into transactions and checks that every object is still as the decision saw it. When one has moved on, the
whole transaction is dropped and its owners are told, so that they decide again from what is there now: decisions are
level-triggered and never patched up.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from flota.manager.store import MAX_CHANGES_PER_TRANSACTION, Store, StoreError, Transaction, View
from flota.manager.store.schema import word_of
from flota.rpc.errors import FlotaError
from flota.v1.objects_pb2 import Network, Node, Service, Task

_log = structlog.get_logger("orchestrator")
# Well under the store's limit, so that envelopes and versions fit too.
_MAX_BYTES = 1_000_000

Writable = Task | Service | Network | Node


class Stale(Exception):
    """An object a decision rests on has changed since."""


@dataclass(slots=True)
class Group:
    """Writes that belong together, and the key (a service's id, say) of whoever decided them."""

    owner: str
    create: list[Task] = field(default_factory=list)
    update: list[Writable] = field(default_factory=list)
    remove: list[Task] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.create) + len(self.update) + len(self.remove)

    def size(self) -> int:
        """Bytes, about."""
        return sum(thing.ByteSize() for thing in (*self.create, *self.update)) + 64 * len(self)


def packed(groups: Iterable[Group]) -> list[list[Group]]:
    """Groups in order, as many to a transaction as fit."""
    packs: list[list[Group]] = []
    count = size = 0
    for group in groups:
        length, bytes_ = len(group), group.size()
        if not packs or count + length > MAX_CHANGES_PER_TRANSACTION or size + bytes_ > _MAX_BYTES:
            packs.append([])
            count = size = 0
        packs[-1].append(group)
        count += length
        size += bytes_
    return packs


def write(tx: Transaction, groups: Iterable[Group]) -> None:
    """Put the groups into a transaction. Raises Stale when something has moved on."""
    views: dict[str, View[Any]] = {
        "task": tx.tasks, "service": tx.services, "network": tx.networks, "node": tx.nodes
    }  # fmt: skip
    for group in groups:
        for thing in group.create:
            tx.create(thing)
        for changed in group.update:
            stored = views[word_of(changed)].get(changed.id)
            if stored is None or stored.meta.version.index != changed.meta.version.index:
                raise Stale
            tx.update(changed)
        for gone in group.remove:
            there = tx.tasks.get(gone.id)
            if there is None or there.meta.version.index != gone.meta.version.index:
                raise Stale
            tx.remove(there)


async def commit(store: Store, groups: list[Group]) -> tuple[set[str], set[str]]:
    """Commit the groups; gives back the owners of those that were not, all of whom must decide again.

    First those who rested on something that has moved on, then those whom consensus (or the store) failed: there,
    trying again at once would not help.
    """
    stale: set[str] = set()
    failed: set[str] = set()
    for pack in packed(groups):
        try:
            await store.update(partial(write, groups=pack))
        except Stale:
            stale |= {group.owner for group in pack}
        except (StoreError, FlotaError) as error:
            _log.warning("cannot commit", reason=str(error), changes=sum(map(len, pack)))
            failed |= {group.owner for group in pack}
    return stale, failed
