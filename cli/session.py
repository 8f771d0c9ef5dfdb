"""One command's connection to a daemon: opened late, closed at the end, errors as a person needs them.

`talks` makes a click callback out of a coroutine function whose first argument is the Session. gRPC and the messages
are imported here, once a command that needs them is about to run.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import click

from flota.cli.failures import USAGE, CommandFailed

if TYPE_CHECKING:
    import grpc.aio

    from flota.cli.main import Settings
    from flota.v1.checks_pb2_grpc import NetworkChecksAsyncStub
    from flota.v1.control_pb2_grpc import ControlAsyncStub
    from flota.v1.local_pb2_grpc import AgentAsyncStub, LocalAsyncStub
    from flota.v1.logs_pb2_grpc import LogsAsyncStub
    from flota.v1.tasks_pb2_grpc import TasksAsyncStub
    from flota.v1.volumes_pb2_grpc import NodeVolumesAsyncStub

P = ParamSpec("P")


class Session:
    """Stubs of the daemon's services, made when they are first asked for."""

    def __init__(self, host: str, consistency: str = "") -> None:
        """`consistency`: "stale" when what the asked manager knows will do."""
        self.host = host
        self._consistency = consistency
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel to the daemon."""
        if self._channel is None:
            from flota.cli.staleness import Consistency, StaleWarning
            from flota.rpc.channels import local_channel

            self._channel = local_channel(
                self.host, [Consistency(self._consistency) if self._consistency else StaleWarning()]
            )
        return self._channel

    @functools.cached_property
    def control(self) -> ControlAsyncStub:
        """What the cluster answers."""
        from flota.v1.control_pb2_grpc import ControlStub

        return ControlStub(self.channel)

    @functools.cached_property
    def logs(self) -> LogsAsyncStub:
        """Logs of tasks."""
        from flota.v1.logs_pb2_grpc import LogsStub

        return LogsStub(self.channel)

    @functools.cached_property
    def tasks(self) -> TasksAsyncStub:
        """What is done with running tasks."""
        from flota.v1.tasks_pb2_grpc import TasksStub

        return TasksStub(self.channel)

    @functools.cached_property
    def volumes(self) -> NodeVolumesAsyncStub:
        """What is done with volumes of other nodes."""
        from flota.v1.volumes_pb2_grpc import NodeVolumesStub

        return NodeVolumesStub(self.channel)

    @functools.cached_property
    def checks(self) -> NetworkChecksAsyncStub:
        """What nodes find out about the networks between them."""
        from flota.v1.checks_pb2_grpc import NetworkChecksStub

        return NetworkChecksStub(self.channel)

    @functools.cached_property
    def local(self) -> LocalAsyncStub:
        """What the machine's daemon answers."""
        from flota.v1.local_pb2_grpc import LocalStub

        return LocalStub(self.channel)

    @functools.cached_property
    def agent(self) -> AgentAsyncStub:
        """What the machine's worker answers."""
        from flota.v1.local_pb2_grpc import AgentStub

        return AgentStub(self.channel)

    async def close(self) -> None:
        """Close the channel, if there is one."""
        if self._channel is not None:
            await self._channel.close()


def socket_path(host: str) -> str:
    """The path within unix:///path. Raises CommandFailed for other addresses."""
    if host.startswith("/"):
        return host
    if host.startswith("unix://") and host.removeprefix("unix://").startswith("/"):
        return host.removeprefix("unix://")
    raise CommandFailed(f"invalid host {host!r}: unix:///path of a daemon's socket is needed (-H, FLOTA_HOST)", USAGE)


def unreachable(host: str) -> CommandFailed | None:
    """Say which socket does not answer, why, and what to do. None when somebody does listen there."""
    import os
    import socket

    path = socket_path(host)
    why = ""
    if not os.path.exists(path):
        why = "there is no such socket"
    else:
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        probe.settimeout(1)
        try:
            probe.connect(path)
        except PermissionError:
            why = "permission denied (the socket is root's)"
        except ConnectionRefusedError:
            why = "nobody listens on it"
        except OSError as error:
            why = str(error.strerror or error)
        finally:
            probe.close()
    if not why:
        return None
    return CommandFailed(
        f"Cannot connect to the flota daemon at unix://{path}: {why}. Is it running? "
        "(start it: systemctl start flota, or flota daemon; another one: -H or FLOTA_HOST)"
    )


def failure_of(error: grpc.aio.AioRpcError, host: str) -> CommandFailed:
    """What a failed call means to a person."""
    import grpc

    details = error.details() or error.code().name.lower().replace("_", " ")
    if error.code() == grpc.StatusCode.UNAVAILABLE and _never_connected(details):
        reason = unreachable(host)
        if reason is not None:
            return reason
    if error.code() == grpc.StatusCode.UNIMPLEMENTED and details.startswith("Method not found"):
        details = "this daemon does not know the request: it is older than this command"
    return CommandFailed(f"Error response from daemon: {details}")


def _never_connected(details: str) -> bool:
    return "failed to connect to" in details or "errno:" in details.lower() or "Socket closed" in details


def talks(
    function: Callable[Concatenate[Session, P], Awaitable[None]],
) -> Callable[P, None]:
    """A click callback that opens a Session, runs `function(session, …)` and closes the session."""

    @functools.wraps(function)
    def callback(*args: P.args, **kwargs: P.kwargs) -> None:
        import asyncio

        settings: Settings = click.get_current_context().find_root().obj
        host = f"unix://{socket_path(settings.host)}"

        async def run() -> None:
            import grpc

            session = Session(host, settings.consistency)
            try:
                await function(session, *args, **kwargs)
            except grpc.aio.AioRpcError as error:
                raise failure_of(error, host) from error
            finally:
                await session.close()

        asyncio.run(run())

    return callback
