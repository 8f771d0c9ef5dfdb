"""The replicated object store: tables in memory, transactions as Raft entries, watches.

Theory of operation: `schema` says what is kept and how it is found, `tables` keeps it, `transaction` collects a change,
`store` commits and applies it, `watch` tells everybody, `memory` keeps what people were told over restarts. A message
that the store gave you is shared and immutable: copy it before you change it.
"""

from flota.manager.store.schema import StoreObject
from flota.manager.store.store import (
    MAX_CHANGES_PER_TRANSACTION,
    Conflict,
    LocalProposer,
    NameTaken,
    Proposer,
    Store,
    StoreError,
    TransactionTooLarge,
)
from flota.manager.store.tables import Reader, ReadTables, Table
from flota.manager.store.transaction import Transaction, View
from flota.manager.store.watch import Compacted, Event, WatchClosed, Watcher

__all__ = [
    "MAX_CHANGES_PER_TRANSACTION",
    "Compacted",
    "Conflict",
    "Event",
    "LocalProposer",
    "NameTaken",
    "Proposer",
    "ReadTables",
    "Reader",
    "Store",
    "StoreError",
    "StoreObject",
    "Table",
    "Transaction",
    "TransactionTooLarge",
    "View",
    "WatchClosed",
    "Watcher",
]
