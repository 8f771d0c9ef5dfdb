"""Daemons and their children are stopped, killed, started again; what a machine was, it is again by itself."""

import asyncio
import shutil
import socket
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest

from flota.node.node import NOT_MANAGER
from flota.v1.control_pb2 import WatchRequest
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import InfoResponse
from tests.cluster.daemon.daemons import (
    MANAGER,
    ROOT,
    WORKER,
    Daemon,
    eventually,
    gone,
    is_ready,
    is_refused,
    is_voter,
    mute_address,
    refusal,
)


async def test_all_stop_and_start_and_are_what_they_were(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    await second.join(begun.tokens.manager, begun.address)
    await third.join(begun.tokens.worker, begun.address)
    before = [await daemon.info() for daemon in daemons]
    children = [daemon.child("worker") for daemon in daemons] + [first.child("manager"), second.child("manager")]
    assert await asyncio.gather(*(daemon.stop() for daemon in daemons)) == [0, 0, 0]
    for pid in children:
        assert await gone(pid)

    await asyncio.gather(*(daemon.start() for daemon in daemons))

    async def all_ready() -> bool:
        nodes = await first.nodes()
        return len(nodes) == 3 and all(map(is_ready, nodes.values()))

    await eventually(all_ready)
    for daemon, info in zip(daemons, before, strict=True):
        now = await eventually(lambda daemon=daemon: active(daemon))
        assert (now.node_id, now.cluster_id, now.role) == (info.node_id, info.cluster_id, info.role)
    assert await first.tokens() == begun.tokens


async def active(daemon: Daemon) -> InfoResponse | None:
    info = await daemon.info()
    return info if info.state == InfoResponse.STATE_ACTIVE else None


async def test_a_child_that_is_killed_is_back_at_once(one: Daemon) -> None:
    begun = await one.init()
    for name in ("manager", "worker"):
        before = one.child(name)
        one.kill_child(name)

        async def is_back(name: str = name, before: int = before) -> bool:
            return one.child(name) not in (0, before) and is_ready((await one.nodes())[begun.node_id])

        await eventually(is_back)
        assert (await one.info()).error == ""
    # The worker has its session again, and the daemon hears it.
    await eventually(lambda: active(one))


async def test_a_daemon_that_is_killed_leaves_no_child_and_comes_back(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    joined = await second.join(begun.tokens.manager, begun.address)
    children = [second.child("worker"), second.child("manager")]
    await second.kill()
    for pid in children:
        await eventually(lambda pid=pid: gone(pid))
    # Started again at once, while the former one's children may still be ending.
    await first.kill()
    await asyncio.gather(first.start(), second.start())

    async def whole() -> bool:
        nodes = await second.nodes()
        return all(is_voter(nodes[id]) and is_ready(nodes[id]) for id in (begun.node_id, joined.node_id))

    await eventually(whole)


async def test_a_second_daemon_is_told_in_one_line(one: Daemon) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.cluster.daemon.daemon", str(one.state), str(one.directory / "run2"),
        stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert one.process is not None
    assert errors.decode() == f"flota daemon: another flota daemon (process {one.process.pid}) is using {one.state}\n"
    assert (await one.info()).state == InfoResponse.STATE_INACTIVE


@pytest.mark.parametrize("role", [MANAGER, WORKER])
async def test_a_role_that_changed_meanwhile_is_found_at_the_start(daemons: list[Daemon], role: int) -> None:
    first, second, third = daemons
    begun = await first.init()
    token = begun.tokens.worker if role == MANAGER else begun.tokens.manager
    joined = await second.join(token, begun.address)
    await third.join(begun.tokens.manager, begun.address)
    await second.stop()
    await first.set_role(joined.node_id, MANAGER if role == MANAGER else WORKER)

    async def role_is_set() -> bool:
        return (await first.nodes())[joined.node_id].role == role

    await eventually(role_is_set)
    await second.start()
    if role == MANAGER:
        assert is_voter((await eventually(second.nodes))[joined.node_id])
    else:
        await eventually(lambda: is_refused(second.nodes(), NOT_MANAGER))
        await eventually(lambda: has_no_log(second))


async def has_no_log(daemon: Daemon) -> bool:
    return "raft" not in {path.name for path in daemon.state.iterdir()}


async def test_a_daemon_that_is_killed_while_it_joins_is_no_member(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    async with mute_address() as nobody:
        joining = asyncio.create_task(
            refusal(second.join(begun.tokens.manager, begun.address, advertise_address=nobody))
        )

        async def has_identity() -> bool:
            return (second.state / "identity/cert.pem").exists()

        await eventually(has_identity)
        await second.kill()
        await joining
    await second.start()
    assert not second.left()
    assert (await second.info()).state == InfoResponse.STATE_INACTIVE
    await second.join(begun.tokens.worker, begun.address)


async def test_an_identity_that_cannot_be_read_is_told_and_can_be_left(one: Daemon) -> None:
    await one.init()
    await one.stop()
    (one.state / "identity/key.pem").unlink()
    await one.start()
    info = await one.info()
    assert info.state == InfoResponse.STATE_ERROR
    assert info.error.startswith(f"the identity in {one.state / 'identity'} cannot be read (")
    code, details = await refusal(one.nodes())
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, info.error)
    assert (await refusal(one.leave()))[1] == info.error
    assert (await refusal(one.init()))[1].startswith("This node is already part of a swarm.")
    # No worker runs: one without an identity would remove the containers of the node that this one still is.
    assert not one.child("worker")
    await one.leave(force=True)
    assert not one.left()
    await one.init()


async def test_a_renewal_that_was_cut_short_is_finished_at_the_start(one: Daemon) -> None:
    begun = await one.init()
    await one.stop()
    # The moment after the key was replaced, and before the certificate was.
    shutil.copy(one.state / "identity/cert.pem", one.state / "identity/cert.pem.new")
    (one.state / "identity/cert.pem").unlink()
    await one.start()
    assert begun.node_id in await eventually(one.nodes)


async def test_a_manager_that_cannot_start_is_seen_in_info_and_starts_when_it_can(one: Daemon, tmp_path: Path) -> None:
    await one.init()
    await one.stop()
    host, _, port = one.address.rpartition(":")
    blocking = await asyncio.start_server(lambda *_: None, host, int(port))
    await one.start()

    async def says_why() -> bool:
        info = await one.info()
        words = f"the manager process is not running: cannot listen on {one.address}: another process is listening"
        return info.state == InfoResponse.STATE_ERROR and info.error.startswith(words)

    await eventually(says_why)
    assert await is_refused(one.nodes(), "this node's manager is not running: cannot listen on")
    blocking.close()
    await eventually(one.nodes)
    await eventually(lambda: active(one))


async def test_a_service_manager_hears_when_the_daemon_is_ready_and_when_it_stops(
    one: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.init()
    await one.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        await one.start()
        assert await asyncio.to_thread(manager.recv, 100) == b"READY=1"
        # Ready means that it answers, children and all.
        assert len(await one.nodes()) == 1
        await one.stop()
        assert await asyncio.to_thread(manager.recv, 100) == b"STOPPING=1"


async def test_a_call_that_breaks_with_its_process_is_no_riddle(one: Daemon) -> None:
    await one.init()
    async with one.channel() as channel:
        watching = ControlStub(channel).Watch(WatchRequest(include_existing=True))
        assert await watching.read()
        one.kill_child("manager")

        async def read() -> None:
            while await watching.read():
                pass

        refused = await refusal(read())
    assert refused[0] == grpc.StatusCode.UNAVAILABLE
    assert refused[1] == "this node's manager process ended while it was asked: try again in a moment"
