"""This node as a member of a cluster: always one session, with whichever manager answers and the newest certificate.

    pick a manager ──► session ──► it fails ──► wait a little ──► pick another
                          │ assigned
                          └──► overlay, secrets and configs, tasks: in this order, for a task rests on the others

When the node's certificate was replaced the session goes on over another connection (link.py), before the first one
ends: nobody who calls this node or reads its logs notices. Nor does a call that is in progress when a session fails.

While no manager answers everything stays as it is: containers run on, names are served, what happens is remembered and
reported later. Only managers who say that the node is no longer one of the cluster end its tasks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import structlog

from flota.rpc.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    FlotaError,
    Internal,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from flota.rpc.identity import Identity
from flota.v1.dispatcher_pb2 import AssignmentChange, AttachNetworkRequest, SessionMessage
from flota.worker import metrics
from flota.worker.agent.assignments import Assigned
from flota.worker.agent.description import Description
from flota.worker.agent.link import Companion, Link
from flota.worker.agent.managers import Managers, Patience
from flota.worker.agent.reporter import Reporter
from flota.worker.agent.session import Session

_log = structlog.get_logger("agent")

# A refusal to open sessions so often is meant for a while.
_LONG_WAIT = 3.0
# So many managers in a row have to say that this node is none of theirs before it believes them.
_REMOVED_AFTER = 3
# Seconds between looks at this node's certificate, and between tries to connect with a new one.
_LOOK = 1.0


class Taker(Protocol):
    """Somebody who takes over assignments: overlay, payloads, tasks."""

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        """`complete`: there is nothing else."""
        ...


class Words:
    """The last word of a manager, for whoever waits for the next one."""

    def __init__(self) -> None:
        self.last: SessionMessage | None = None
        self._news = asyncio.Event()

    def say(self, message: SessionMessage) -> None:
        """There is a new one."""
        self.last = message
        self._news.set()
        self._news = asyncio.Event()

    async def all(self) -> AsyncIterator[SessionMessage]:
        """The last one, and then each new one; runs until cancelled."""
        seen: SessionMessage | None = None
        while True:
            news, last = self._news, self.last
            if last is not None and last is not seen:
                seen = last
                yield last
            else:
                await news.wait()


class Membership:
    """`run` it as long as the node is a member. `takers` get assignments in their order."""

    def __init__(
        self,
        identity: Identity,
        managers: Managers,
        description: Description,
        takers: Sequence[Taker],
        reporter: Reporter,
        words: Words,
        companions: Sequence[Companion] = (),
        in_force: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`in_force` waits until what the takers were told last is so."""
        self._identity = identity
        self._managers = managers
        self._description = description
        self._takers = takers
        self._reporter = reporter
        self._words = words
        self._companions = companions
        self._in_force = in_force
        self._session: Session | None = None
        # Links without a session, on which something that was begun goes on.
        self._retired: set[asyncio.Task[None]] = set()
        self._patience = Patience()
        self._address = ""
        self._resume = ""
        self._refusals = 0
        self._told = ""
        self._error = ""
        self._connected = False
        self._left = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a session now."""
        return self._connected

    @property
    def error(self) -> str:
        """Why there is no session; empty when there is one, and before the first try."""
        return "" if self._connected else self._error

    @property
    def removed(self) -> bool:
        """Whether managers say that this node is not of the cluster any longer."""
        return self._refusals >= _REMOVED_AFTER

    async def run(self) -> None:
        """Runs until cancelled, or until the node has left."""
        try:
            await self._keep_sessions()
        finally:
            for task in self._retired:
                task.cancel()
            await asyncio.gather(*self._retired, return_exceptions=True)

    async def _keep_sessions(self) -> None:
        while not self._left.is_set():
            self._address = self._managers.pick()
            try:
                await self._attempt(self._address)
            except FlotaError as error:
                wait = self._after(self._address, error)
            except Exception as defect:  # noqa: BLE001 - a worker that lives can be told to do something else
                _log.exception("a defect ended the session", manager=self._address)
                wait = self._after(self._address, Internal(f"{type(defect).__name__}: {defect}"))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._left.wait()

    async def leave(self) -> None:
        """Say goodbye, if anybody listens, and open no session any more."""
        self._left.set()
        if self._session is not None and self._connected:
            try:
                await self._session.goodbye()
            except FlotaError as error:
                _log.info("leaving without a goodbye", reason=str(error))

    async def registry_auth(self, task_id: str) -> str:
        """Credentials for the registry of a task's image, from managers' helpers; empty when there are none."""
        if self._session is None or not self._connected:
            return ""
        try:
            return await self._session.registry_auth(task_id)
        except FlotaError as error:
            _log.warning("managers give no credentials for a registry", task=task_id, reason=str(error))
            return ""

    async def attach_network(self, request: AttachNetworkRequest) -> str:
        """A place on a network for a container of this node: its task's id. Raises FlotaError."""
        if self._session is None or not self._connected:
            raise Unavailable(f"no manager can be reached: {self._error or 'there is no session yet'}")
        return await self._session.attach_network(request)

    def heard(self, message: SessionMessage) -> None:
        """A manager speaks to this node."""
        if not self._connected:
            self._connected = True
            self._refusals = 0
            self._told = ""
            self._resume = message.session_id
            self._managers.succeeded(self._address)
            self._patience.opened(message.session_id)
            metrics.SESSION.set(1)
            _log.info("session", session=message.session_id, manager=self._address)
        self._managers.heard(message.managers)
        self._words.say(message)

    def assigned(self, assigned: Assigned) -> None:
        """What the node shall have."""
        for taker in self._takers:
            try:
                taker.apply(assigned.changes, assigned.complete)
            except Exception:  # noqa: BLE001 - one part's trouble is not the others'
                _log.exception("a defect: assignments were not taken over", by=type(taker).__name__)

    async def in_force(self) -> None:
        """Returns when what was assigned last is what the node does."""
        if self._in_force is not None:
            await self._in_force()

    async def _attempt(self, address: str) -> None:
        if not address:
            raise FailedPrecondition("no manager is known")
        link = self._link(address)
        try:
            self._description.refresh()
            await link.open(self._resume)
        except BaseException:
            await link.close()
            raise
        serving = self._begin(link)
        try:
            while True:
                await self._until_replaced(link, serving)
                successor = await self._succeed(address, link, serving)
                link.retire()
                self._let_end(serving)
                link, serving = successor, self._begin(successor)
        except (NotFound, PermissionDenied):
            raise
        except FlotaError:
            self._let_end(serving)
            raise
        finally:
            self._session = None
            if serving not in self._retired:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    def _link(self, address: str) -> Link:
        make = partial(
            Session,
            listener=self,
            reporter=self._reporter,
            description=self._description,
            patience=self._patience.seconds,
        )
        return Link(self._identity, address, make, self._companions)

    def _begin(self, link: Link) -> asyncio.Task[None]:
        self._session, self._resume = link.session, link.session.id
        return asyncio.create_task(link.serve(), name="link")

    def _let_end(self, serving: asyncio.Task[None]) -> None:
        """What was begun on a link without a session goes on."""
        self._retired.add(serving)
        serving.add_done_callback(self._ended)

    def _ended(self, serving: asyncio.Task[None]) -> None:
        self._retired.discard(serving)
        if not serving.cancelled() and (defect := serving.exception()) is not None:
            _log.error("a defect ended what was begun on a former connection", defect=repr(defect))

    async def _until_replaced(self, link: Link, serving: asyncio.Task[None]) -> None:
        """Until the certificate that the link shows is not this node's any longer. Raises what ends the session."""
        while self._identity.certificate_pem == link.certificate_pem:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await _first(link.until_lost(), serving)
            if link.lost is not None:
                raise link.lost
            # The daemon takes the files away when the node leaves.
            with suppress(FileNotFoundError):
                if self._identity.reload() and self._identity.certificate_pem == link.certificate_pem:
                    # The root is another one, which managers are to know.
                    self._description.refresh()

    async def _succeed(self, address: str, link: Link, serving: asyncio.Task[None]) -> Link:
        """Another link to the same manager that shows the newest certificate and has the session.

        Raises what ends the session before there is one.
        """
        while True:
            successor = self._link(address)
            try:
                # Managers are told of the certificate over the connection that shows it: from then on they may refuse
                # the former one.
                await _first(successor.connect(), serving)
                self._description.refresh()
                await successor.open(link.session.id)
                return successor
            except FlotaError as error:
                await successor.close()
                _log.warning("no session with the new certificate yet", manager=address, reason=str(error))
                self._description.refresh()
            except BaseException:
                await successor.close()
                raise
            if link.lost is not None:
                raise link.lost
            await asyncio.sleep(_LOOK)

    def _after(self, address: str, error: FlotaError) -> float:
        """A session is over or did not come about; seconds until the next try."""
        had_session, self._connected = self._connected, False
        metrics.SESSION.set(0)
        metrics.SESSIONS.labels(type(error).__name__).inc()
        self._error = str(error)
        self._tell(error, had_session)
        if isinstance(error, DeadlineExceeded):
            self._patience.ran_out()
        if isinstance(error, FailedPrecondition):
            self._resume = ""
        if isinstance(error, NotFound | PermissionDenied):
            self._refuse(error)
        wait = self._managers.failed(address)
        return max(wait, _LONG_WAIT) if isinstance(error, ResourceExhausted) else wait

    def _tell(self, error: FlotaError, had_session: bool) -> None:
        """Say in the log why there is no session; the same thing again is not worth a line."""
        if self._left.is_set():
            return
        kind = type(error).__name__
        level = _log.warning if had_session else _log.info if kind != self._told else _log.debug
        level("no session", manager=self._address, reason=str(error), kind=kind)
        self._told = kind

    def _refuse(self, error: FlotaError) -> None:
        self._refusals += 1
        if self._refusals == _REMOVED_AFTER:
            _log.warning("this node is not of the cluster any longer: its tasks end", reason=str(error))
            self.assigned(Assigned((), complete=True))


async def _first(waiting: Coroutine[Any, Any, None], serving: asyncio.Task[None]) -> None:
    """Wait for something while a link is served. Raises what `serving` raises."""
    task = asyncio.create_task(waiting)
    try:
        await asyncio.wait((task, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
