"""A backup is taken while a swarm works, all its managers are lost, and a machine begins it again."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from flota.rpc.backups import read_backup
from flota.v1.control_pb2 import (
    CreateBackupRequest,
    CreateSecretRequest,
    CreateServiceRequest,
    ListSecretsRequest,
    ListServicesRequest,
)
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import InfoResponse, RestoreRequest, RestoreResponse
from flota.v1.local_pb2_grpc import LocalStub
from flota.v1.specs_pb2 import ClusterSpec, SecretSpec, ServiceSpec
from tests.cluster.daemon.daemons import MANAGER, WORKER, Daemon, eventually, is_ready, refusal


async def create_service(daemon: Daemon, name: str) -> None:
    spec = ServiceSpec()
    spec.annotations.name = name
    spec.task.container.image = "busybox"
    spec.replicated.replicas = 0
    async with daemon.channel() as channel:
        await ControlStub(channel).CreateService(CreateServiceRequest(spec=spec))


async def services(daemon: Daemon) -> set[str]:
    async with daemon.channel() as channel:
        answer = await ControlStub(channel).ListServices(ListServicesRequest())
    return {service.spec.annotations.name for service in answer.services}


async def back_up(daemon: Daemon) -> bytes:
    async with daemon.channel() as channel:
        call = ControlStub(channel).CreateBackup(CreateBackupRequest())
        return b"".join([message.data async for message in call])


async def restore(daemon: Daemon, data: bytes, **options: Any) -> RestoreResponse:
    async def parts() -> AsyncIterator[RestoreRequest]:
        fields = {"listen_address": daemon.address} | options
        yield RestoreRequest(options=RestoreRequest.Options(**fields))
        for at in range(0, len(data), 1000):
            yield RestoreRequest(data=data[at : at + 1000])

    async with daemon.channel() as channel:
        return await LocalStub(channel).Restore(parts(), timeout=60)


@pytest.mark.parametrize("locked", [False, True])
async def test_a_swarm_whose_managers_are_lost_begins_again_elsewhere(daemons: list[Daemon], locked: bool) -> None:
    first, second, third = daemons
    asked = ClusterSpec()
    asked.encryption.auto_lock_managers = locked
    begun = await first.init(spec=asked)
    await second.join(begun.tokens.manager, begun.address)
    await create_service(first, "web")
    async with first.channel() as channel:
        spec = SecretSpec(data=b"hunter2-hunter2")
        spec.annotations.name = "password"
        await ControlStub(channel).CreateSecret(CreateSecretRequest(spec=spec))
    # From the manager that is no leader, and as new as what was written before.
    data = await back_up(second)
    await create_service(first, "later")
    header = read_backup(io.BytesIO(data), "backup").header
    assert (header.objects["service"], header.objects["node"], header.stale) == (1, 2, "")
    assert (b"hunter2-hunter2" in data) is not locked
    await asyncio.gather(first.kill(), second.kill())

    key = {"unlock_key": begun.unlock_key} if locked else {}
    if locked:
        assert (await refusal(restore(third, data)))[1].startswith("this backup is encrypted: give the unlock key")
    code, details = await refusal(restore(third, data[:-1], **key))
    assert (code, "the backup is cut short" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert not third.left()
    assert (await third.info()).state == InfoResponse.STATE_INACTIVE

    answer = await restore(third, data, **key)
    assert answer.tokens == begun.tokens
    assert await services(third) == {"web"}
    async with third.channel() as channel:
        assert len((await ControlStub(channel).ListSecrets(ListSecretsRequest())).secrets) == 1
    nodes = await third.nodes()
    assert len(nodes) == 3
    assert [node.id for node in nodes.values() if node.role == MANAGER] == [answer.node_id]
    assert nodes[begun.node_id].role == WORKER
    assert (await refusal(restore(third, data, **key)))[1].startswith("This node is already part of a swarm.")
    # It is a swarm like any other: it changes, is joined, and outlives a restart.
    await create_service(third, "new")
    await first.start()
    await first.leave(force=True)
    await first.join(answer.tokens.manager, answer.address)
    await first.stop()
    if not locked:
        await third.stop()
        await third.start()
        await first.start()
        assert await eventually(lambda: services(third)) == {"web", "new"}

        async def both_ready() -> bool:
            return sum(map(is_ready, (await third.nodes()).values())) == 2

        await eventually(both_ready)


async def test_a_backup_without_a_quorum_says_that_it_may_lack_something(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    await asyncio.gather(*(daemon.join(begun.tokens.manager, begun.address) for daemon in (second, third)))
    await create_service(first, "web")
    await asyncio.gather(second.kill(), third.kill())

    async def is_stale() -> bool:
        header = read_backup(io.BytesIO(await back_up(first)), "backup").header
        return header.objects["service"] == 1 and "has lost its quorum" in header.stale

    await eventually(is_stale)
