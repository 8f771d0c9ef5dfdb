"""Make the booted nodes of a lab one swarm, over their own sockets, as a person would with `flota swarm init, join`.

Everything that does not depend on something else happens at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from flota.node.lab import places
from flota.node.lab.errors import LabError
from flota.rpc.channels import local_channel
from flota.v1.control_pb2 import WatchRequest
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import AgentStatusRequest, InfoRequest, InitRequest, JoinRequest, LoadImageRequest
from flota.v1.local_pb2_grpc import AgentStub, LocalStub
from flota.v1.types_pb2 import NODE_STATE_READY

_LIMIT_SECONDS = 200.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A node to be."""

    name: str
    address: str
    host: str
    manager: bool


async def form(
    lab: str,
    members: Sequence[Member],
    images: Sequence[Path],
    swarm: bool,
    heartbeat: float,
    say: Callable[[str], None],
) -> None:
    """Load images; with `swarm`, init on the first member, join the others, wait until all are READY.

    `heartbeat`: seconds, 0 for the default.

    Raises LabError.
    """
    channels = {member.name: local_channel(member.host) for member in members}
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            loading = asyncio.gather(*(_load(lab, member, channels[member.name], images) for member in members))
            try:
                if swarm:
                    await _join(lab, members, channels, heartbeat)
                    say(f"{members[0].name} began the swarm, {_names(members[1:])} joined it")
                await loading
                say(f"every node has the images {', '.join(map(_title, images))}")
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
            if swarm:
                await _until_ready(channels[members[0].name], {member.name for member in members})
                say("all nodes are READY")
    except TimeoutError:
        raise LabError(f"the lab is not ready after {_LIMIT_SECONDS:.0f} s") from None
    finally:
        await asyncio.gather(*(channel.close() for channel in channels.values()))


async def until_up(lab: str, member: Member, channel: grpc.aio.Channel) -> None:
    """Return when the node's daemon answers. Raises LabError when it ended."""
    while True:
        _check_alive(lab, member.name)
        if _there(member):
            try:
                await LocalStub(channel).Info(InfoRequest(), wait_for_ready=True, timeout=5)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise LabError(f"{member.name}: {error.details()}") from None
        await asyncio.sleep(0.01)


def _there(member: Member) -> bool:
    return Path(member.host.removeprefix("unix://")).exists()


def _check_alive(lab: str, node: str) -> None:
    """Raises LabError with the daemon's last words when it has ended."""
    ends, log = places.disk(lab, node) / "ends", places.disk(lab, node) / "log"
    if ends.exists():
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
        raise LabError(f"{node}: the daemon ended with status {ends.read_text().split()[-1]}: {last}")


async def _load(lab: str, member: Member, channel: grpc.aio.Channel, images: Sequence[Path]) -> None:
    await until_up(lab, member, channel)
    await _until_worker_answers(member, channel)
    for image in images:
        try:
            await AgentStub(channel).LoadImage(_parts(image))
        except grpc.aio.AioRpcError as error:
            raise LabError(f"{member.name} does not load {image}: {error.details()}") from None


async def _until_worker_answers(member: Member, channel: grpc.aio.Channel) -> None:
    """A daemon answers before its worker does."""
    while True:
        try:
            await AgentStub(channel).Status(AgentStatusRequest())
            return
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise LabError(f"{member.name}: {error.details()}") from None
        await asyncio.sleep(0.02)


async def _parts(file: Path) -> AsyncIterator[LoadImageRequest]:
    with file.open("rb") as opened:
        while data := opened.read(_CHUNK):
            yield LoadImageRequest(data=data)


async def _join(
    lab: str, members: Sequence[Member], channels: Mapping[str, grpc.aio.Channel], heartbeat: float
) -> None:
    first, *others = members
    await until_up(lab, first, channels[first.name])
    init = InitRequest(advertise_address=first.address)
    if heartbeat:
        init.spec.dispatcher.heartbeat_period.FromMilliseconds(round(heartbeat * 1000))
    try:
        begun = await LocalStub(channels[first.name]).Init(init)
    except grpc.aio.AioRpcError as error:
        raise LabError(f"{first.name} does not begin a swarm: {error.details()}") from None

    async def join(member: Member) -> None:
        await until_up(lab, member, channels[member.name])
        request = JoinRequest(
            token=begun.tokens.manager if member.manager else begun.tokens.worker,
            addresses=[begun.address],
            advertise_address=member.address,
        )
        try:
            await LocalStub(channels[member.name]).Join(request)
        except grpc.aio.AioRpcError as error:
            raise LabError(f"{member.name} does not join the swarm: {error.details()}") from None

    try:
        async with asyncio.TaskGroup() as group:
            for member in others:
                group.create_task(join(member))
    except ExceptionGroup as failed:
        # One line for people; what else failed, failed for the same reason.
        raise failed.exceptions[0] from None


async def _until_ready(channel: grpc.aio.Channel, names: set[str]) -> None:
    ready: set[str] = set()
    request = WatchRequest(selectors=[WatchRequest.Selector(kind="node")], include_existing=True)
    while True:
        try:
            async for message in ControlStub(channel).Watch(request):
                node = message.object.node
                if node.status.state == NODE_STATE_READY:
                    ready.add(node.description.hostname)
                if names <= ready:
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise LabError(f"the swarm does not answer: {error.details()}") from None
        await asyncio.sleep(0.05)


def _names(members: Sequence[Member]) -> str:
    return ", ".join(member.name for member in members) or "nobody"


def _title(image: Path) -> str:
    return image.stem
