"""What every part of the Control service rests on: the store, how changes are committed, what may be shown.

Store errors become errors for people here. Nothing in this module knows a kind of object.
"""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol, TypeVar

from flota.manager.clock import Clock
from flota.manager.control.claims import Claims
from flota.manager.raft.interface import MemberStatus
from flota.manager.store import Conflict, NameTaken, Store, Transaction, TransactionTooLarge
from flota.rpc.errors import AlreadyExists, FlotaError, InvalidArgument, NoLeader, OutOfSequence
from flota.rpc.staleness import mark_stale, why_stale
from flota.v1 import control_pb2_grpc
from flota.v1.objects_pb2 import NodeUsage
from flota.v1.types_pb2 import Version

R = TypeVar("R")


class Stream(Protocol):
    """An answer that goes on."""

    def cut(self, error: FlotaError) -> None:
        """End it with an error."""
        ...


class ControlBase(control_pb2_grpc.ControlServicer):
    """Common to the parts; each part answers the calls of one kind of object."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        rng: Random,
        members: Callable[[], list[MemberStatus]],
        own_node_id: str = "",
        *,
        read_barrier: Callable[[], Awaitable[None]] | None = None,
        usage: Callable[[str], NodeUsage | None] = lambda _: None,
    ) -> None:
        """`members` is Raft's view of its group; `rng` makes ids; `read_barrier` makes reads linearizable;
        `usage` tells how full a node is."""
        self._store = store
        self._clock = clock
        self._rng = rng
        self._members = members
        self._own_node_id = own_node_id
        self._read_barrier = read_barrier
        self._usage = usage
        self._claims = Claims()
        self._streams: set[Stream] = set()

    async def _fresh(self) -> Store:
        """The store, as new as anything that was committed before this call.

        Without a quorum it is what this manager knows, and the answer is marked as stale.
        """
        if self._read_barrier is not None and not why_stale():
            try:
                await self._read_barrier()
            except NoLeader as error:
                if not mark_stale(str(error)):
                    raise
        return self._store

    async def _commit(self, change: Callable[[Transaction], R]) -> R:
        """Run `change` in a transaction. Raises AlreadyExists, OutOfSequence, InvalidArgument (far too large)."""
        try:
            return await self._store.update(change)
        except NameTaken as error:
            raise AlreadyExists(str(error)) from None
        except Conflict as error:
            raise OutOfSequence(f"update out of sequence: {error}") from None
        except TransactionTooLarge as error:
            raise InvalidArgument(f"the request is too large: {error}") from None


def check_version(what: str, asked: Version, stored: Version) -> None:
    """Refuse an update that does not rest on the newest state. `what` names the object. Raises OutOfSequence."""
    if asked.index != stored.index:
        raise OutOfSequence(
            f"update out of sequence: {what} is at version {stored.index}, the request rests on version {asked.index}"
        )
