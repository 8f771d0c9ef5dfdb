"""One connection to a manager, made with the certificate of its time, and all that uses it: a session and companions.

A connection shows the certificate that it was made with for as long as it lasts, and managers refuse an old one once
another root has taken over: then the session goes on over another link. And sessions fail while connections are sound,
when a busy manager was late. Either way a link without a session is retired: its companions begin nothing new, and what
they have begun (a person's `exec`) goes on here until it is over, or the connection breaks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import grpc.aio

from flota.rpc.channels import node_channel
from flota.rpc.errors import DeadlineExceeded, FlotaError
from flota.rpc.identity import Identity
from flota.worker.agent.session import Session, first_of

# For a connection beside one that works.
_CONNECT_LIMIT = 10.0

# Something else that needs the channel, such as the publisher of logs. It runs until cancelled; once the event is set
# another channel takes this one's place: then it begins nothing new, and returns when what it has begun is over.
Companion = Callable[[grpc.aio.Channel, asyncio.Event], Awaitable[None]]


class Link:
    """`open` it, `serve` in a task of its own, and `close` it, whatever happened."""

    def __init__(
        self,
        identity: Identity,
        address: str,
        session: Callable[[grpc.aio.Channel], Session],
        companions: Sequence[Companion] = (),
    ) -> None:
        self._channel = node_channel(identity, address)
        # What it shows.
        self.certificate_pem = identity.certificate_pem
        self.session = session(self._channel)
        self._companions = companions
        self._retired = asyncio.Event()
        self._session_task: asyncio.Task[None] | None = None
        # What ended the session.
        self.lost: FlotaError | None = None

    async def connect(self) -> None:
        """Until there is a connection. Raises DeadlineExceeded."""
        try:
            async with asyncio.timeout(_CONNECT_LIMIT):
                await self._channel.channel_ready()
        except TimeoutError:
            raise DeadlineExceeded(f"no new connection to this manager within {_CONNECT_LIMIT:g} s") from None

    async def open(self, resume: str) -> None:
        """Open the session, or go on with `resume`. Raises FlotaError."""
        await self.session.open(resume)

    async def serve(self) -> None:
        """Serve until the session ends, and from then on what was begun. Raises only what is a defect."""
        try:
            async with asyncio.TaskGroup() as group:
                self._session_task = group.create_task(self._keep_session(), name="session")
                for companion in self._companions:
                    group.create_task(_accompany(companion, self._channel, self._retired), name="session: companion")
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None
        finally:
            await self.close()

    async def until_lost(self) -> None:
        """Until the session has ended: `lost` says why."""
        await self._retired.wait()

    def retire(self) -> None:
        """Another link has the session."""
        self._retired.set()
        if self._session_task is not None:
            self._session_task.cancel()

    async def close(self) -> None:
        """End everything that is left."""
        await self._channel.close()

    async def _keep_session(self) -> None:
        try:
            await self.session.serve()
        except FlotaError as error:
            self.lost = error
            self._retired.set()


async def _accompany(companion: Companion, channel: grpc.aio.Channel, retired: asyncio.Event) -> None:
    await companion(channel, retired)
