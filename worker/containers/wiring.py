"""The networks of one container without a service, changed while it runs or while it does not.

    connect / disconnect ──► checked ──► if it runs: its namespace is changed (bridges.py) ──► the record
    a run has its namespace ──► settle: what the record says and the namespace has not, or the other way round

The record is what counts: it is written last when a network comes, and first when one goes. So what a crash, or a start
at the same moment, leaves half done is finished by `settle`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Set
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from flota.overlay import NotAttached, OverlayError
from flota.rpc.errors import AlreadyExists, FailedPrecondition, FlotaError, InvalidArgument, NotFound
from flota.v1.containers_pb2 import PlainContainer
from flota.v1.network_options import HOST, NONE, PREDEFINED
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import NetworkAttachment, NetworkAttachmentConfig
from flota.worker.containers.bridges import Bridges

_log = structlog.get_logger("containers")

# Between tries to settle: doubled each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_NAMES_ONLY = (HOST, NONE)

EditHosts = Callable[[Callable[[str], str]], Awaitable[None]]


class Wiring:
    """See the module's docstring. All methods on the event loop; `leave` it before the worker ends."""

    def __init__(
        self, record: PlainContainer, bridges: Bridges, save: Callable[[], None], edit_hosts: EditHosts
    ) -> None:
        """`save` writes the record down; `edit_hosts` changes the /etc/hosts of the container that runs."""
        self._record = record
        self._edit_hosts = edit_hosts
        self._bridges = bridges
        self._save = save
        self._lock = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def _task(self) -> Task:
        return self._record.task

    def shown(self) -> Iterator[NetworkAttachment]:
        """Where it is, and (without addresses) where it will be when it runs."""
        there = self._bridges.given(self._task.id)
        for place in there:
            shown = NetworkAttachment()
            shown.CopyFrom(place)
            shown.target = self._bridges.name_of(place.network_id) or place.target
            yield shown
        for wanted in self._task.spec.networks:
            if not any(self._is_at(wanted.target, place) for place in there):
                shown = self._attachment(wanted)
                del shown.addresses[:]
                shown.target = self._bridges.name_of(wanted.target) or wanted.target
                yield shown

    async def connect(self, wanted: NetworkAttachmentConfig, priority: int) -> None:
        """Be on one more network, at once if it runs.

        Raises AlreadyExists, InvalidArgument, NotFound, FailedPrecondition, Unavailable; then it is as it was.
        """
        await self._finish(self._connect(wanted, priority))

    async def disconnect(self, network: str) -> None:
        """Be on a network (its id or name) no longer. Raises InvalidArgument, FailedPrecondition, Unavailable."""
        await self._finish(self._disconnect(network))

    async def settle(self) -> None:
        """Have a run's namespace on just the networks of the record. Runs until that is so, or it is cancelled."""
        pause = _FIRST_PAUSE
        while not await self._settled():
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def leave(self) -> None:
        """The worker stops: what is under way is the next one's to settle."""
        for one in self._under_way:
            one.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _finish(self, change: Coroutine[Any, Any, None]) -> None:
        """A change that has begun is not given up when whoever asked for it goes away."""
        work = asyncio.create_task(change, name=f"container {self._task.id}: networks")
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)
        try:
            await asyncio.shield(work)
        except OverlayError as error:
            raise FailedPrecondition(str(error)) from None

    async def _connect(self, wanted: NetworkAttachmentConfig, priority: int) -> None:
        async with self._lock:
            if not self._check(wanted):
                return
            add_own_alias(self._task, wanted)
            if self._bridges.is_attached(self._task.id) and wanted.target not in _NAMES_ONLY:
                # If it ends meanwhile, then from its next start on.
                with suppress(NotAttached):
                    await self._come(attachment(wanted, priority))
            self._task.spec.networks.append(wanted)
            if priority:
                self._record.gateway_priorities[wanted.target] = priority
            self._save()

    def _check(self, wanted: NetworkAttachmentConfig) -> bool:
        """Whether there is anything to do. Raises AlreadyExists, InvalidArgument."""
        check_endpoint(wanted)
        targets = [one.target for one in self._task.spec.networks]
        if HOST in targets:
            raise InvalidArgument(
                "container cannot be disconnected from host network or connected to host network"
                if wanted.target == HOST
                else "container sharing network namespace with another container or host cannot be connected to any "
                "other network"
            )
        if wanted.target == HOST:
            raise InvalidArgument("container cannot be disconnected from host network or connected to host network")
        if not any(self._same(target, wanted.target) for target in targets):
            check_together([*targets, wanted.target])
            return True
        if not self._bridges.is_attached(self._task.id):
            return False
        name, network = task_name(self._task), self._bridges.name_of(wanted.target) or wanted.target
        if wanted.target == NONE:
            check_together([*targets, NONE])
        if self._bridges.is_local(wanted.target):
            raise AlreadyExists(f"endpoint with name {name} already exists in network {network}")
        raise AlreadyExists(f"{name} is already attached to network {network}")

    async def _disconnect(self, network: str) -> None:
        async with self._lock:
            wanted = next((one for one in self._task.spec.networks if self._same(one.target, network)), None)
            runs = self._bridges.is_attached(self._task.id)
            if wanted is None:
                name = self._bridges.name_of(network) or network
                the = "" if runs else "the "
                raise FailedPrecondition(f"container {self._task.id} is not connected to {the}network {name}")
            if wanted.target == HOST:
                raise InvalidArgument("container cannot be disconnected from host network or connected to host network")
            place = next((one for one in self._places() if self._is_at(wanted.target, one)), None)
            before = PlainContainer()
            before.CopyFrom(self._record)
            self._task.spec.networks.remove(wanted)
            self._record.gateway_priorities.pop(wanted.target, None)
            self._save()
            if place is None:
                return
            try:
                # If it ends meanwhile, it is off as well.
                with suppress(NotAttached):
                    await self._go(place)
            except BaseException:
                del self._task.spec.networks[:]
                self._task.spec.networks.extend(before.task.spec.networks)
                self._record.gateway_priorities.MergeFrom(before.gateway_priorities)
                self._save()
                raise

    async def _settled(self) -> bool:
        async with self._lock:
            if not self._bridges.is_attached(self._task.id):
                return True
            try:
                return await self._bring_after()
            except NotAttached:
                return True
            except (OverlayError, FlotaError) as error:
                if isinstance(error, NotFound):
                    _log.warning("a network of a container is gone", container=self._task.id, reason=str(error))
                    return True
                _log.warning("a container is not on its networks yet", container=self._task.id, reason=str(error))
                return False

    async def _bring_after(self) -> bool:
        """One network after the other; false if it cannot be said yet whether one is meant."""
        wanted = [one for one in self._task.spec.networks if one.target not in _NAMES_ONLY]
        if any(not self._bridges.name_of(place.network_id) and not place.target for place in self._places()):
            return False
        for place in list(self._places()):
            if not any(self._is_at(one.target, place) for one in wanted):
                await self._go(place)
        for one in wanted:
            if not any(self._is_at(one.target, place) for place in self._places()):
                await self._come(self._attachment(one))
        return True

    async def _come(self, wanted: NetworkAttachment) -> None:
        await self._bridges.connect(self._task, wanted)
        await self._follow_in_hosts(())

    async def _go(self, place: NetworkAttachment) -> None:
        await self._bridges.disconnect(self._task, place.network_id)
        await self._follow_in_hosts(place.addresses)

    async def _follow_in_hosts(self, gone: Iterable[str]) -> None:
        """The container's own name leads to an address that it has."""
        hostname, there = self._task.spec.container.hostname, self._places()
        if not hostname:
            return
        here = [_bare(address) for address in there[0].addresses] if there else []
        change = partial(own_lines, hostname=hostname, gone={*map(_bare, gone)}, here=here)
        try:
            await self._edit_hosts(change)
        except OSError as error:
            _log.warning("cannot change a container's hosts", container=self._task.id, reason=str(error))

    def _places(self) -> list[NetworkAttachment]:
        return self._bridges.given(self._task.id)

    def _is_at(self, target: str, place: NetworkAttachment) -> bool:
        """Whether a place is on the network that is called `target` by people."""
        return target in (place.network_id, place.target, self._bridges.name_of(place.network_id))

    def _same(self, target: str, other: str) -> bool:
        """Whether two words, ids or names, mean one network."""
        places = self._places()
        is_one_place = any(self._is_at(target, place) and self._is_at(other, place) for place in places)
        return is_one_place or other in (target, self._bridges.name_of(target))

    def _attachment(self, wanted: NetworkAttachmentConfig) -> NetworkAttachment:
        return attachment(wanted, self._record.gateway_priorities.get(wanted.target, 0))


def own_lines(text: str, hostname: str, gone: Set[str], here: Iterable[str]) -> str:
    """/etc/hosts without what leads from a container's own name to addresses that are `gone`; it leads to those that
    it has `here` then, if to nothing else. What else people wrote there stays.
    """
    lines = [line.split() for line in text.splitlines()]
    own = [hostname in words[1:] for words in lines]
    kept = [
        line
        for line, words, is_own in zip(text.splitlines(), lines, own, strict=True)
        if not (is_own and words[0] in gone)
    ]
    if not any(is_own and words[0] not in gone for words, is_own in zip(lines, own, strict=True)):
        kept += [f"{address} {hostname}" for address in here]
    return "".join(f"{line}\n" for line in kept)


def _bare(address: str) -> str:
    """Without its prefix length."""
    return address.partition("/")[0]


def check_endpoint(wanted: NetworkAttachmentConfig) -> None:
    """What cannot be asked of a network by what it is. Raises InvalidArgument."""
    if wanted.target in PREDEFINED:
        if wanted.addresses:
            raise InvalidArgument("user specified IP address is supported on user defined networks only")
        if wanted.aliases:
            raise InvalidArgument("network-scoped alias is supported only for containers in user defined networks")


def check_together(targets: list[str]) -> None:
    """Whether a container can be on all of these networks. Raises InvalidArgument."""
    if len(targets) > 1 and NONE in targets:
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )
    if len(targets) > 1 and HOST in targets:
        raise InvalidArgument(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )


def add_own_alias(task: Task, wanted: NetworkAttachmentConfig) -> None:
    """As Docker has it: on networks that people made the container's id is a name, too."""
    if wanted.target not in PREDEFINED and task.id[:12] not in wanted.aliases:
        wanted.aliases.append(task.id[:12])


def attachment(wanted: NetworkAttachmentConfig, priority: int) -> NetworkAttachment:
    """What is asked of a network for a container."""
    return NetworkAttachment(
        network_id=wanted.target, addresses=wanted.addresses, aliases=wanted.aliases, gateway_priority=priority
    )
