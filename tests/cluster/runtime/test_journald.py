"""The log driver journald, with a real systemd-journald. Needs root and systemd."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flota.worker.runtime import mounts
from flota.worker.runtime.container import Exit, Log
from flota.worker.runtime.runtime import Runtime
from tests.cluster.runtime.world import World
from tests.cluster.waiting import wait_until
from tests.cluster.worker.machine import eventually

_JOURNALD = Path("/lib/systemd/systemd-journald")


@pytest.fixture
def journal() -> Iterator[Path]:
    """The socket of a journald that is this test's alone: in a /run of its own."""
    if not _JOURNALD.exists() or shutil.which("journalctl") is None:
        pytest.skip("systemd-journald is not installed")
    mounts.mount("tmpfs", Path("/run"), "tmpfs")
    socket = Path("/run/systemd/journal/socket")
    process = None
    try:
        for directory in (socket.parent, Path("/run/log/journal")):
            directory.mkdir(parents=True)
        process = subprocess.Popen([_JOURNALD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(socket.exists, "journald listens")
        yield socket
    finally:
        if process is not None:
            process.terminate()
            process.wait()
        mounts.unmount(Path("/run"))


def entries(container_id: str) -> list[dict[str, Any]]:
    """What the journal has of a container."""
    command = ["journalctl", "--no-pager", "--output=json", f"CONTAINER_ID_FULL={container_id}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [json.loads(line) for line in lines]


async def test_what_a_container_says_is_in_the_journal_and_in_its_log(
    journal: Path, world: World, runtime: Runtime
) -> None:
    container = world.container("echo hello; echo oh >&2", log=Log(journal=True))
    container.task.service_id, container.task.slot = "svc", 3
    container.task.service_annotations.name = "web"
    await runtime.create(container)
    await runtime.launch(container.id)
    assert await runtime.wait(container.id) == Exit(0)
    found = await eventually(lambda: len(each := entries(container.id)) == 2 and each)
    assert found
    assert {(one["MESSAGE"].strip(), one["PRIORITY"]) for one in found} == {("hello", "6"), ("oh", "3")}
    assert {(one["CONTAINER_TAG"], one["CONTAINER_NAME"]) for one in found} == {(container.id, f"web.3.{container.id}")}
    assert sorted(world.output(container)) == ["hello", "oh"]
