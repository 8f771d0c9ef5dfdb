"""Images that are named, looked at, saved, pruned, and go by themselves."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flota.rpc.errors import FailedPrecondition, InvalidArgument
from flota.worker.images.collection import Rules
from flota.worker.images.config import ImageConfig
from flota.worker.images.errors import ImageNotFound
from flota.worker.images.index import ImageRecord
from flota.worker.images.store import ImageStore
from tests.unit.images.making import MadeImage, directory, docker_save, parts, tar

BASE = tar([directory("etc"), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("data", b"x" * 200_000)])
ONE = MadeImage([BASE], {"Cmd": ["one"]})
TWO = MadeImage([BASE, tar([("two", b"2")])], {"Cmd": ["two"], "Labels": {"keep": "no"}})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    made = ImageStore(tmp_path / "images")
    await made.start()
    await made.load(parts(docker_save([(ONE, ["web:1"]), (TWO, ["web:2"])])))
    yield made
    await made.stop()


async def archive(store: ImageStore, *references: str) -> bytes:
    return b"".join([part async for part in store.save(references)])


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def everything(record: ImageRecord, config: ImageConfig) -> bool:
    return True


async def test_one_more_name(store: ImageStore) -> None:
    await store.tag("web:1", "registry:5000/web")
    assert (await store.find("registry:5000/web:latest")).id == ONE.id
    await store.tag(TWO.id, "web:1")
    assert (await store.find("web:1")).id == TWO.id
    for target, why in (("Web", "lower case"), (f"web@{ONE.id}", "a digest cannot be chosen")):
        with pytest.raises(InvalidArgument, match=why):
            await store.tag("web:2", target)
    with pytest.raises(ImageNotFound):
        await store.tag("none", "web:3")


async def test_what_is_saved_can_be_loaded_elsewhere_and_is_the_same(store: ImageStore, tmp_path: Path) -> None:
    data = await archive(store, "web:1", "web:2", ONE.id)
    other = ImageStore(tmp_path / "other")
    await other.start()
    try:
        await other.load(parts(data))
        assert {one.id for one in other.images()} == {ONE.id, TWO.id}
        assert (await other.find("web:2")).id == TWO.id
        assert await archive(other, "web:1", "web:2") == data
    finally:
        await other.stop()


async def test_an_archive_is_what_docker_and_skopeo_read(store: ImageStore, tmp_path: Path) -> None:
    saved = tmp_path / "saved.tar"
    saved.write_bytes(await archive(store, "web:2"))
    for kind in ("docker-archive", "oci-archive"):
        said = output("skopeo", "inspect", "--config", "--raw", f"{kind}:{saved}")
        assert json.loads(said) == json.loads(TWO.configuration)
    listed = output("tar", "-tf", str(saved)).split()
    assert {"oci-layout", "index.json", "manifest.json"} <= set(listed)
    assert len(listed) == len(set(listed)) == 7


async def test_who_stops_reading_ends_it(store: ImageStore) -> None:
    reading = store.save(["web:2"])
    await anext(aiter(reading))
    await reading.aclose()
    # Its thread is free again.
    assert await archive(store, "web:1")


async def test_what_was_unpacked_before_there_were_recipes_says_what_to_do(store: ImageStore) -> None:
    for recipe in (store.layers_directory.parent / "recipes").iterdir():
        recipe.unlink()
    with pytest.raises(FailedPrecondition, match="pull or load it anew"):
        await archive(store, "web:1")


async def test_all_that_is_known_of_an_image(store: ImageStore) -> None:
    store.hold("task", TWO.id)
    found = store.inspect("web:2")
    assert json.loads(found.configuration) == json.loads(TWO.configuration)
    assert (found.image.id, list(found.task_ids), len(found.layer_directories)) == (TWO.id, ["task"], 2)
    assert time.time() - found.last_used_at.ToSeconds() < 100
    with pytest.raises(ImageNotFound):
        store.inspect("none")


async def test_pruning_leaves_what_tasks_need(store: ImageStore) -> None:
    await store.tag(TWO.id, "web:1")
    store.hold("task", TWO.id)
    answer = await store.prune(everything, all=False)
    assert (list(answer.untagged), ONE.id in answer.deleted, answer.reclaimed_bytes) == ([], True, 0)
    assert not (await store.prune(everything, all=True)).deleted
    store.release("task")
    assert not (await store.prune(lambda record, config: "keep" not in config.labels, all=True)).deleted
    answer = await store.prune(everything, all=True)
    assert (list(answer.untagged), TWO.id in answer.deleted) == (["web:1", "web:2"], True)
    assert answer.reclaimed_bytes > 200_000
    assert store.images() == []


async def test_when_an_image_was_needed_is_known_after_a_restart(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time() + 5000
    monkeypatch.setattr(time, "time", lambda: later)
    store.hold("task", ONE.id)
    monkeypatch.undo()
    await store._needs.collect(Rules())
    await store.stop()
    again = ImageStore(store.layers_directory.parent)
    await again.start()
    try:
        assert again.inspect("web:1").last_used_at.ToSeconds() > time.time() + 4000
        assert again.inspect("web:2").last_used_at.ToSeconds() < time.time() + 1000
    finally:
        await again.stop()


async def test_what_is_loaded_stays_however_full_the_disk_is(store: ImageStore) -> None:
    assert await store._needs.collect(Rules(max_age=0.001, high=1, low=0)) == []
    assert len(store) == 2


async def test_one_reader_does_not_hold_up_the_other(store: ImageStore) -> None:
    both = await asyncio.gather(archive(store, "web:1"), archive(store, "web:2"))
    assert all(both)
