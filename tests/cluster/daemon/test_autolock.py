"""Autolock with real daemons: keys are withheld, a person gives them, they change while everything goes on."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio

from flota.node.locking import LOCKED
from flota.v1.control_pb2 import GetClusterRequest, GetUnlockKeyRequest, UpdateClusterRequest
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import InfoResponse, UnlockRequest
from flota.v1.local_pb2_grpc import LocalStub
from flota.v1.specs_pb2 import ClusterSpec
from tests.cluster.daemon.daemons import WORKER, Daemon, eventually, is_ready, is_voter, refusal

WRONG = "SWMKEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def locking() -> ClusterSpec:
    spec = ClusterSpec()
    spec.encryption.auto_lock_managers = True
    return spec


async def set_autolock(daemon: Daemon, on: bool, rotate: bool = False) -> str:
    """As `swarm update --autolock` and `unlock-key --rotate` do; gives the key."""
    async with daemon.channel() as channel:
        control = ControlStub(channel)
        cluster = (await control.GetCluster(GetClusterRequest())).cluster
        cluster.spec.encryption.auto_lock_managers = on
        request = UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec, rotate_unlock_key=rotate)
        await control.UpdateCluster(request)
        return (await control.GetUnlockKey(GetUnlockKeyRequest())).unlock_key


async def unlock(daemon: Daemon, key: str) -> None:
    async with daemon.channel() as channel:
        await LocalStub(channel).Unlock(UnlockRequest(key=key), timeout=30)


def tells_nothing(daemon: Daemon) -> bool:
    """Neither a key-encryption key nor the certificate's key is on the disk in clear."""
    return '"kek": ""' in (daemon.state / "raft/keys.json").read_text() and (
        "ENCRYPTED" in (daemon.state / "identity/key.pem").read_text()
    )


async def is_silent(daemon: Daemon) -> bool:
    return tells_nothing(daemon)


async def is_open(daemon: Daemon) -> bool:
    return '"kek": ""' not in (daemon.state / "raft/keys.json").read_text() and (
        "ENCRYPTED" not in (daemon.state / "identity/key.pem").read_text()
    )


def one_data_key(daemon: Daemon) -> bool:
    """Nothing is left of what was sealed with an earlier data key."""
    text = (daemon.state / "raft/keys.json").read_text()
    return text.partition('"keys"')[2].partition("}")[0].count('": "') == 1


async def resealed(daemon: Daemon) -> bool:
    return one_data_key(daemon)


async def test_a_locked_manager_waits_for_its_key_and_says_so(one: Daemon) -> None:
    begun = await one.init(spec=locking())
    assert begun.unlock_key.startswith("SWMKEY-1-")
    assert tells_nothing(one)
    await eventually(lambda: resealed(one))
    tokens = await one.tokens()
    await one.stop()
    assert not (one.run / "identity").exists()

    await one.start()
    info = await one.info()
    assert (info.state, info.error) == (InfoResponse.STATE_LOCKED, LOCKED)
    locked = (grpc.StatusCode.FAILED_PRECONDITION, LOCKED)
    assert await refusal(one.nodes()) == locked
    assert await refusal(one.leave()) == locked
    assert not one.child("manager")
    assert not one.child("worker")
    assert await refusal(unlock(one, WRONG)) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "swarm could not be unlocked: invalid key provided",
    )
    code, details = await refusal(unlock(one, "hunter2"))
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid unlock key: it begins with SWMKEY-1-",
    )
    assert (await one.info()).state == InfoResponse.STATE_LOCKED

    await unlock(one, begun.unlock_key)
    assert await one.tokens() == tokens

    async def is_back() -> bool:
        return is_ready((await one.nodes())[begun.node_id])

    await eventually(is_back)
    assert await refusal(unlock(one, begun.unlock_key)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "swarm is not locked",
    )
    # The daemon has the key now: its manager comes back without a person.
    one.kill_child("manager")
    assert await eventually(one.tokens) == tokens


async def test_the_key_changes_on_all_managers_while_they_work(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    assert not begun.unlock_key
    joined = await second.join(begun.tokens.manager, begun.address)
    await third.join(begun.tokens.worker, begun.address)
    old = await set_autolock(first, True)
    for daemon in (first, second):
        await eventually(lambda daemon=daemon: is_silent(daemon))
    new = await set_autolock(second, True, rotate=True)
    assert new not in ("", old)
    for daemon in (first, second):
        await eventually(lambda daemon=daemon: resealed(daemon))

    await second.stop()
    await second.start()
    assert (await refusal(unlock(second, old)))[0] == grpc.StatusCode.PERMISSION_DENIED
    await unlock(second, new)

    async def whole() -> bool:
        nodes = await second.nodes()
        return len(nodes) == 3 and is_voter(nodes[joined.node_id]) and all(map(is_ready, nodes.values()))

    await eventually(whole)

    # A manager that is down keeps the old key until it is back.
    await second.stop()
    assert await first.init(force_new_cluster=True)
    newest = await set_autolock(first, True, rotate=True)
    await first.stop()
    await first.start()
    assert (await refusal(unlock(first, new)))[0] == grpc.StatusCode.PERMISSION_DENIED
    await unlock(first, newest)
    await eventually(first.tokens)

    # And it can be turned off again.
    assert await set_autolock(first, False) == ""
    await eventually(lambda: is_open(first))
    await first.stop()
    await first.start()
    assert await eventually(first.tokens) == begun.tokens


async def test_a_manager_that_is_demoted_is_not_locked(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init(spec=locking())
    joined = await second.join(begun.tokens.manager, begun.address)
    await eventually(lambda: is_silent(second))
    await first.set_role(joined.node_id, WORKER)

    async def is_plain_worker() -> bool:
        key = (second.state / "identity/key.pem").read_text()
        return "ENCRYPTED" not in key and not (second.state / "raft").exists()

    await eventually(is_plain_worker)
    await second.stop()
    await second.start()

    async def is_back() -> bool:
        return (await second.info()).state == InfoResponse.STATE_ACTIVE

    await eventually(is_back)


async def test_who_lost_the_key_can_leave_and_join_again(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init(spec=locking())
    await asyncio.gather(*(daemon.join(begun.tokens.manager, begun.address) for daemon in (second, third)))
    await eventually(lambda: is_silent(second))
    await second.stop()
    await second.start()
    assert (await second.info()).state == InfoResponse.STATE_LOCKED
    await second.leave(force=True)
    assert second.is_clean()
    await second.join(begun.tokens.manager, begun.address)
    assert len(await second.nodes()) == 4


def test_nothing_readable_stays_behind(tmp_path: Path) -> None:
    """The certificate's key on disk opens with the secret only."""
    from flota.manager.ca.certificates import create_request
    from flota.node.locking import Keys, is_sealed

    _, key_pem = create_request()
    keys = Keys((b"k" * 32,), True, (b"a" * 32, b"b" * 32))
    sealed = keys.on_disk(key_pem, is_manager=True)
    assert is_sealed(sealed)
    assert keys.is_right(sealed, is_manager=True)
    assert not keys.is_right(key_pem, is_manager=True)
    assert keys.opened(sealed) == key_pem
    assert Keys((), True, (b"b" * 32, b"c" * 32)).opened(sealed) == key_pem
    assert not Keys((), True, (b"b" * 32, b"c" * 32)).is_right(sealed, is_manager=True)
    assert keys.on_disk(key_pem, is_manager=False) == key_pem
