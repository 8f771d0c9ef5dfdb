"""Keeps the node what its cluster wants it to be, from what a manager tells the worker over its session.

A changed role, or a certificate that is to be rotated, means a new certificate; a certificate is renewed by itself at
a random point between 50 % and 80 % of its life (SwarmKit's ca/renewer.go), so that a cluster's nodes do not all ask
at once. A changed list of managers is kept for the next start.
"""

import asyncio
import datetime
from contextlib import suppress
from random import Random, SystemRandom

import grpc.aio
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from flota.manager.ca.certificates import BACKDATE
from flota.manager.ca.join import renew_certificate
from flota.manager.ca.service import wants_new_certificate
from flota.node.node import Node
from flota.rpc.errors import FlotaError, Unavailable
from flota.rpc.identity import Identity
from flota.v1.dispatcher_pb2 import SessionMessage
from flota.v1.local_pb2 import WatchManagerRequest, WatchSessionRequest
from flota.v1.local_pb2_grpc import AgentStub, ManagerHereStub

_log = structlog.get_logger("node")
# Between two looks at a worker that does not answer.
_PAUSE = 0.1
# Between two tries to get a certificate: grows from the first to the second.
_FIRST_RETRY = 0.2
_LONGEST_RETRY = 60.0
# A wait is never so long that a clock that was set, or a machine that slept, matters.
_LONGEST_WAIT = 600.0


class Follower:
    """See the module's docstring; `run` it while the node lives."""

    def __init__(self, node: Node, random: Random | None = None) -> None:
        self._node = node
        self._random = random or SystemRandom()
        self._news = asyncio.Event()
        # The last message that asked for a certificate: the worker repeats its last one to whoever listens anew.
        self._answered: SessionMessage | None = None
        self._due: tuple[x509.Certificate, datetime.datetime] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._listen_to_manager())
            group.create_task(self._renew())

    async def _listen(self) -> None:
        while True:
            channel = await self._node.worker.until_ready()
            try:
                async for message in AgentStub(channel).WatchSession(WatchSessionRequest()):
                    await self._hear(message)
            except grpc.aio.AioRpcError as error:
                _log.debug("the worker's session cannot be followed", reason=error.details())
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # The channel was closed below us, because the worker ended.
                if task is None or task.cancelling():
                    raise
            await asyncio.sleep(_PAUSE)

    async def _listen_to_manager(self) -> None:
        node = self._node
        while True:
            channel = await node.manager.until_ready()
            try:
                async for report in ManagerHereStub(channel).WatchManager(WatchManagerRequest()):
                    await node.hear_manager(report)
                    if node.key_was_shown:
                        self._news.set()
            except grpc.aio.AioRpcError as error:
                _log.debug("the manager cannot be followed", reason=error.details())
            except (OSError, ValueError) as error:
                _log.error("this node's key cannot be kept as the swarm wants it", reason=str(error))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # The channel was closed below us, because the manager ended.
                if task is None or task.cancelling():
                    raise
            node.manager_trouble = ""
            await asyncio.sleep(_PAUSE)

    async def _hear(self, message: SessionMessage) -> None:
        node = self._node
        await node.hear(message)
        async with node.turn:
            identity, record = node.identity, node.record
            if identity is None or record is None or message.node.id != identity.node_id:
                return
            if message.managers and list(message.managers) != list(record.managers):
                del record.managers[:]
                record.managers.extend(message.managers)
                try:
                    await node.save_record()
                except OSError as error:
                    _log.warning("the list of managers cannot be kept for the next start", reason=str(error))
            if message.root_ca and message.root_ca != identity.root_pem:
                await self._trust(identity, message.root_ca)
        self._news.set()

    async def _trust(self, identity: Identity, root_pem: bytes) -> None:
        """The cluster has another root: it counts once our certificate is of it."""
        try:
            identity.certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root_pem))
            await self._node.trust_root(identity, root_pem)
        except (ValueError, TypeError, InvalidSignature) as error:
            _log.warning("managers speak of a root certificate that is not this node's", reason=str(error))
        except OSError as error:
            _log.warning("the root certificate cannot be kept", reason=str(error))
        else:
            _log.info("this node trusts another root certificate")

    async def _renew(self) -> None:
        retry = _FIRST_RETRY
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait()):
                    await self._news.wait()
            self._news.clear()
            if await self._renew_if_due():
                retry = _FIRST_RETRY
                continue
            await asyncio.sleep(retry * self._random.uniform(0.5, 1.0))
            retry = min(retry * 2, _LONGEST_RETRY)
            self._news.set()

    async def _renew_if_due(self) -> bool:
        """Get a new certificate and take it over, if we need one; False when that is to be tried again."""
        node = self._node
        async with node.turn:
            session, identity, record = node.session, node.identity, node.record
            if identity is None or record is None:
                return True
            asked = (
                session is not None
                and session != self._answered
                and session.node.id == identity.node_id
                and wants_new_certificate(session.node, identity.role)
            )
            if not asked and not node.key_was_shown and self._wait() > 0:
                return True
            managers = [*node.other_managers(), record.advertise_address] if node.is_manager else node.other_managers()
            try:
                issued = await renew_certificate(identity, managers)
                if asked and session is not None and issued.role != session.node.role:
                    raise Unavailable("the manager that was asked does not know of this node's new role yet")
                await node.renewed(issued)
            except (FlotaError, OSError) as error:
                _log.warning("cannot renew this node's certificate yet", reason=str(error))
                if identity.certificate.not_valid_after_utc < _now():
                    node.expired = (
                        f"this node's certificate was good until {identity.certificate.not_valid_after_utc:%F %T} UTC: "
                        "run flota swarm leave --force and join again"
                    )
                return False
            _log.info("this node has a new certificate", good_until=str(identity.certificate.not_valid_after_utc))
            node.expired, node.key_was_shown = "", False
            if asked:
                self._answered = session
            return True

    def _wait(self) -> float:
        """Seconds until the certificate is to be renewed, or until the next look."""
        identity = self._node.identity
        if identity is None:
            return _LONGEST_WAIT
        if self._due is None or self._due[0] is not identity.certificate:
            self._due = (identity.certificate, renewal_time(identity.certificate, self._random))
        return min(max(0.0, (self._due[1] - _now()).total_seconds()), _LONGEST_WAIT)


def renewal_time(certificate: x509.Certificate, random: Random) -> datetime.datetime:
    """When a certificate is to be renewed."""
    begin, end = certificate.not_valid_before_utc + BACKDATE, certificate.not_valid_after_utc
    return begin + (end - begin) * random.uniform(0.5, 0.8)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
