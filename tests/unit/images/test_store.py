"""ImageStore: what is loaded is found, shared, listed, removed, and there after a restart."""

import asyncio
import gzip
import json
import lzma
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard

from flota.rpc.errors import InvalidArgument, Unavailable
from flota.v1.local_pb2 import Image, ImportImageRequest
from flota.worker.images import layers
from flota.worker.images.compression import Readable
from flota.worker.images.errors import BadImage, ImageInUse, ImageNotFound
from flota.worker.images.store import ImageStore
from flota.worker.images.unpack import Unpacked, unpack
from tests.unit.images.making import INDEX, MadeImage, directory, docker_save, layout, parts, sha256, tar

BASE = tar([directory("etc"), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), directory("tmp", mode=0o1777)])
TOP = tar([("app", b"app"), ("tmp/x", b""), ("etc/.wh.passwd", b"")])
ONE = MadeImage([BASE], {"Cmd": ["sh"]})
TWO = MadeImage([BASE, TOP], {"Cmd": ["/app"], "Labels": {"a": "b"}})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    made = ImageStore(tmp_path / "images")
    await made.start()
    yield made
    await made.stop()


async def again(store: ImageStore) -> ImageStore:
    """The same store after a restart of the worker."""
    await store.stop()
    made = ImageStore(store.layers_directory.parent)
    await made.start()
    return made


def saved(*names: str, image: MadeImage = ONE) -> bytes:
    return docker_save([(image, names)])


async def load(store: ImageStore, data: bytes) -> list[Image]:
    return await store.load(parts(data))


def directories(store: ImageStore) -> set[str]:
    return set(os.listdir(store.layers_directory))


async def eventually(condition: Callable[[], object]) -> None:
    """Ask until yes: for what threads and other processes do in their own time."""
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)


def incoming(store: ImageStore) -> list[str]:
    return os.listdir(store.layers_directory.parent / "incoming")


async def no_rubbish(store: ImageStore) -> None:
    """What is deleted is deleted in the background."""
    await eventually(lambda: not incoming(store) and directories(store) == used(store))


def used(store: ImageStore) -> set[str]:
    try:
        index = json.loads((store.layers_directory.parent / "index.json").read_text())
    except FileNotFoundError:
        return set()
    return {one["directory"] for one in index["layers"].values()}


async def test_what_docker_saved_is_found_by_name_and_id(store: ImageStore) -> None:
    (image,) = await load(store, saved("busybox:latest", "registry:5000/box:1"))
    assert (image.id, list(image.references), list(image.digests)) == (
        ONE.id,
        ["busybox:latest", "registry:5000/box:1"],
        [],
    )
    assert image.created_at.ToJsonString() == "2026-01-02T03:04:05.678Z"
    assert image.size_bytes == len(b"root:x:0:0::/:/bin/sh\n")
    digits = ONE.id.removeprefix("sha256:")
    for reference in (
        *("busybox", "busybox:latest", "docker.io/library/busybox", "index.docker.io/library/busybox:latest"),
        *("registry:5000/box:1", ONE.id, digits, digits[:12], f"sha256:{digits[:5]}"),
    ):
        found = await store.find(reference)
        assert (found.id, found.config.cmd) == (ONE.id, ("sh",))
        assert (store.layers_directory / found.layers[0] / "etc/passwd").exists()
    for reference in ("busybox:1", "registry:5000/box", "nope", f"busybox@{ONE.id}", "", "sha256:", "UP!"):
        with pytest.raises(ImageNotFound, match=r"no such image: .*flota image pull, load or import it"):
            await store.find(reference)


async def test_layers_are_what_overlayfs_needs_and_shared(store: ImageStore) -> None:
    await load(store, saved("two:1", image=TWO))
    two = await store.find("two:1")
    base, top = (store.layers_directory / one for one in two.layers)
    assert os.stat(top / "tmp").st_mode & 0o7777 == 0o1777
    await load(store, saved("one:1"))
    assert (await store.find("one:1")).layers == two.layers[:1]
    assert directories(store) == {base.name, top.name}
    merged, upper, work = (store.layers_directory.parent / name for name in ("merged", "upper", "work"))
    for one in (merged, upper, work):
        one.mkdir()
    options = f"lowerdir={top}:{base},upperdir={upper},workdir={work}"
    script = f"mount -t overlay overlay -o {options} {merged} && ls {merged} {merged}/etc && umount {merged}"
    shown = await asyncio.to_thread(
        subprocess.run, ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [f"{merged}:", "app", "etc", "tmp", f"{merged}/etc:"]


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
async def test_an_oci_layout_is_found_by_digest_too(store: ImageStore, compression: str) -> None:
    image = MadeImage(TWO.layers, TWO.config, compression=compression)
    index = json.dumps({"mediaType": INDEX, "manifests": [image.descriptor(platform=True)]}).encode()
    named = {
        "mediaType": INDEX,
        "digest": sha256(index),
        "annotations": {"io.containerd.image.name": "docker.io/shop/web:1"},
    }
    (loaded,) = await load(store, layout([named], [index, *image.blobs()]))
    assert (loaded.id, list(loaded.references)) == (image.id, ["shop/web:1"])
    assert set(loaded.digests) == {f"shop/web@{sha256(index)}", f"shop/web@{image.digest}"}
    assert loaded.labels == {"a": "b"}
    for reference in (f"shop/web@{image.digest}", f"shop/web:7@{sha256(index)}", f"other/name@{image.digest}"):
        assert (await store.find(reference)).id == image.id


async def test_of_several_platforms_this_machines_is_taken(store: ImageStore) -> None:
    other = MadeImage([BASE], architecture="s390x")
    both = [other.descriptor("web:1", platform=True), ONE.descriptor("web:1", platform=True)]
    (loaded,) = await load(store, layout(both, ONE.blobs()))
    assert loaded.id == ONE.id
    with pytest.raises(BadImage, match=r"web:1 is not for this machine \(linux/\w+\) but for linux/s390x"):
        await load(store, layout([other.descriptor("web:1", platform=True)], other.blobs()))


async def test_several_images_in_one_archive(store: ImageStore) -> None:
    assert [one.id for one in await load(store, docker_save([(ONE, ["a:1"]), (TWO, [])]))] == [ONE.id, TWO.id]
    assert [
        one.id
        for one in await load(store, layout([ONE.descriptor(), TWO.descriptor("latest")], ONE.blobs() + TWO.blobs()))
    ] == [ONE.id, TWO.id]
    assert {one.id: list(one.references) for one in store.images()} == {ONE.id: ["a:1"], TWO.id: []}


async def test_docker_archives_that_are_layouts_too(store: ImageStore) -> None:
    blob = f"blobs/{sha256(ONE.configuration).replace(':', '/')}"
    layer = f"blobs/{sha256(BASE).replace(':', '/')}"
    manifest = json.dumps([{"Config": blob, "RepoTags": ["web:1", "web:2"], "Layers": [layer]}]).encode()
    index = json.dumps({"manifests": [ONE.descriptor("web:1")]}).encode()
    files = {f"blobs/{sha256(one).replace(':', '/')}": one for one in ONE.blobs()}
    data = tar([*files.items(), ("index.json", index), ("manifest.json", manifest)])
    (loaded,) = await load(store, data)
    assert (list(loaded.references), list(loaded.digests)) == (["web:1", "web:2"], [f"web@{ONE.digest}"])


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress, lzma.compress])
async def test_archives_that_are_compressed_as_a_whole(store: ImageStore, compress: object) -> None:
    (loaded,) = await load(store, compress(saved("web:1")))  # type: ignore[operator]
    assert loaded.id == ONE.id


async def test_a_tag_moves_to_the_newer_image(store: ImageStore) -> None:
    await load(store, saved("web:1"))
    await load(store, saved("web:1", image=TWO))
    assert (await store.find("web:1")).id == TWO.id
    assert {one.id: list(one.references) for one in store.images()} == {ONE.id: [], TWO.id: ["web:1"]}


async def test_loads_at_once_do_the_work_once(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []

    def counting(tar: Readable, directory: Path, lowers: Sequence[Path], recipe: BinaryIO) -> Unpacked:
        unpacked.append(directory)
        return unpack(tar, directory, lowers, recipe)

    monkeypatch.setattr(layers, "unpack", counting)
    big = MadeImage([tar([(f"file{n}", b"x" * 1000) for n in range(500)])])
    results = await asyncio.gather(*(load(store, saved(f"web:{n}", image=big)) for n in range(4)))
    assert {one.id for result in results for one in result} == {big.id}
    assert list(store.images()[0].references) == ["web:0", "web:1", "web:2", "web:3"]
    assert len(unpacked) == len(directories(store)) == 1


async def test_everything_is_there_after_a_restart(store: ImageStore) -> None:
    await load(store, layout([TWO.descriptor("web:1")], TWO.blobs()))
    before, images = await store.find("web:1"), store.images()
    store = await again(store)
    assert (await store.find("web:1"), store.images()) == (before, images)
    await store.stop()


async def test_what_a_crash_left_is_deleted(store: ImageStore) -> None:
    await load(store, saved("web:1"))
    directory = store.layers_directory.parent
    for stray in (directory / "layers/stray/in", directory / "incoming/half/in", directory / "blobs/sha256"):
        stray.mkdir(parents=True, exist_ok=True)
    (directory / "blobs/sha256/00").write_text("x")
    (directory / "index.json.new").write_text("half")
    store = await again(store)
    await no_rubbish(store)
    assert os.listdir(directory / "blobs/sha256") == [ONE.id.removeprefix("sha256:")]
    assert (await store.find("web:1")).id == ONE.id
    await store.stop()


@pytest.mark.parametrize("damage", ["layer", "no layer", "configuration"])
async def test_what_the_machines_crash_damaged_is_not_used(store: ImageStore, damage: str) -> None:
    await load(store, saved("one:1"))
    await load(store, saved("two:1", image=TWO))
    await store.stop()
    directory = store.layers_directory.parent
    index = json.loads((directory / "index.json").read_text())
    top = next(one for one in index["layers"].values() if one["diff_id"] == sha256(TOP))
    # The machine was started anew before the kernel had written what was new.
    for one in index["layers"].values():
        one["boot"] = "an earlier one"
    (directory / "index.json").write_text(json.dumps(index))
    if damage == "layer":
        os.truncate(directory / "layers" / top["directory"] / "app", 0)
    elif damage == "no layer":
        shutil.rmtree(directory / "layers" / top["directory"])
    else:
        os.truncate(directory / "blobs/sha256" / TWO.id.removeprefix("sha256:"), 3)
    store = ImageStore(directory)
    await store.start()
    assert [one.id for one in store.images()] == [ONE.id]
    await no_rubbish(store)
    assert len(directories(store)) == 1
    # What was looked at is not looked at again.
    assert {one["boot"] for one in json.loads((directory / "index.json").read_text())["layers"].values()} == {""}
    await load(store, saved("two:1", image=TWO))
    await store.stop()


async def test_an_index_that_cannot_be_read_costs_no_layer(store: ImageStore) -> None:
    await load(store, saved("web:1"))
    await store.stop()
    before = directories(store)
    for content in ("{", '{"version": 1}', '{"version": 9}'):
        (store.layers_directory.parent / "index.json").write_text(content)
        with pytest.raises(ValueError, match=r"index\.json|Expecting property"):
            await ImageStore(store.layers_directory.parent).start()
        assert directories(store) == before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a tar archive"),
        (b"no tar" * 1000, "not a tar archive"),
        (gzip.compress(saved("a"), mtime=0)[:-100], "gzip data ends too early"),
        (tar([("x", b"")]), "neither index.json"),
        (tar([("index.json", b"{")]), "index.json is no JSON"),
        (tar([("index.json", b"[]")]), "index.json has no list of manifests"),
        (tar([("index.json", b'{"manifests": []}')]), "index.json names none"),
        (tar([("manifest.json", b"{}")]), "manifest.json is no list"),
        (tar([("manifest.json", b"[{}]")]), "an image without Config"),
        (tar([("manifest.json", b'[{"Config": "x"}]')]), "x is missing"),
        (saved("UPPER!"), "invalid image name 'UPPER!' in manifest.json: repository names are lower case"),
        (layout([ONE.descriptor()], []), "blobs/sha256/.* is missing"),
        (layout([{"digest": "sha256:../../etc/passwd"}], []), "invalid digest"),
        (layout([ONE.descriptor()], [ONE.manifest, ONE.configuration]), "layer blobs/sha256/.* is missing"),
        (docker_save([(MadeImage([b"no tar"]), ["a"])]), "not a tar archive"),
        (docker_save([(MadeImage([tar([("../x", b"")])]), ["a"])]), "layer sha256:.*: entry '../x': it leads out"),
    ],
    # Not the bytes: workers must find the same names.
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else value,
)
async def test_what_is_no_image(store: ImageStore, data: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        await load(store, data)
    assert store.images() == []
    await no_rubbish(store)


async def test_content_that_is_not_what_its_digest_says(store: ImageStore) -> None:
    good = saved("web:1")
    assert good.count(b"root:x:0:0") == 1
    with pytest.raises(BadImage, match=r"layer sha256:\w+: it is damaged: its digest is sha256"):
        await load(store, good.replace(b"root:x:0:0", b"evil:x:0:0"))
    image = layout([ONE.descriptor("web:1")], ONE.blobs())
    with pytest.raises(BadImage, match=r"blobs/sha256/\w+ is damaged"):
        await load(store, image.replace(b'"Cmd": ["sh"]', b'"Cmd": ["su"]'))
    assert store.images() == []
    await load(store, good)
    await no_rubbish(store)


class BrokenOff(Exception):
    pass


async def test_a_load_that_breaks_off_leaves_nothing(store: ImageStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield saved("web:1")[:3000]
        raise BrokenOff

    with pytest.raises(BrokenOff):
        await store.load(broken())
    assert os.listdir(store.layers_directory.parent / "incoming") == []


async def test_who_goes_away_holds_up_nobody(store: ImageStore) -> None:
    big = MadeImage([tar([(f"file{n}", b"x" * 1000) for n in range(2000)])])
    first = asyncio.create_task(load(store, saved("web:1", image=big)))
    await eventually(lambda: incoming(store))
    second = asyncio.create_task(load(store, saved("web:2", image=big)))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second)[0].id == big.id


async def test_stopping_ends_what_is_under_way(store: ImageStore) -> None:
    big = MadeImage([tar([(f"file{n}", b"x" * (1 << 20)) for n in range(40)])])
    loading = asyncio.create_task(load(store, saved("web:1", image=big)))
    await eventually(lambda: incoming(store))
    await store.stop()
    with pytest.raises(Unavailable, match="worker stops"):
        await loading
    store = ImageStore(store.layers_directory.parent)
    await store.start()
    assert store.images() == []


async def test_import_makes_an_image(store: ImageStore) -> None:
    options = ImportImageRequest.Options(reference="shop/base", changes=["CMD /app", "ENV A=b", "LABEL x=y"])
    image = await store.import_image(options, parts(gzip.compress(BASE)))
    assert (list(image.references), image.labels) == (["shop/base:latest"], {"x": "y"})
    found = await store.find("shop/base")
    assert (found.config.cmd, found.config.env) == (("/bin/sh", "-c", "/app"), ("A=b",))
    assert (store.layers_directory / found.layers[0] / "etc/passwd").exists()
    nameless = await store.import_image(ImportImageRequest.Options(), parts(BASE))
    assert list(nameless.references) == []
    assert len(directories(store)) == 1
    for wrong, message in (("a@" + ONE.id, "a digest cannot be chosen"), ("A:B:C", "invalid reference 'A:B:C'")):
        with pytest.raises(InvalidArgument, match=message):
            await store.import_image(ImportImageRequest.Options(reference=wrong), parts(BASE))


async def test_removing_names_and_images(store: ImageStore) -> None:
    await load(store, saved("web:1", "web:2"))
    await load(store, saved("two:1", image=TWO))
    removed = await store.remove("web:1")
    assert (list(removed.untagged), list(removed.deleted)) == (["web:1"], [])
    removed = await store.remove("two:1")
    assert (list(removed.untagged), removed.deleted[0], len(removed.deleted)) == (["two:1"], TWO.id, 2)
    assert (await store.find("web:2")).id == ONE.id
    removed = await store.remove(ONE.id[:15])
    assert (list(removed.untagged), list(removed.deleted)) == (["web:2"], [ONE.id, sha256(BASE)])
    await no_rubbish(store)
    assert directories(store) == set()
    assert os.listdir(store.layers_directory.parent / "blobs/sha256") == []
    with pytest.raises(ImageNotFound):
        await store.remove("web:2")


async def test_digests_go_with_the_last_tag_of_their_repository(store: ImageStore) -> None:
    await load(store, layout([ONE.descriptor("web:1")], ONE.blobs()))
    await load(store, saved("other:1"))
    removed = await store.remove("web:1")
    assert (list(removed.untagged), list(removed.deleted)) == (["web:1", f"web@{ONE.digest}"], [])
    await load(store, layout([ONE.descriptor("web:1")], ONE.blobs()))
    with pytest.raises(ImageInUse, match="is called other and web: remove these names, or use --force"):
        await store.remove(ONE.id)
    removed = await store.remove(f"web@{ONE.digest}")
    assert (list(removed.untagged), list(removed.deleted)) == ([f"web@{ONE.digest}"], [])
    removed = await store.remove(ONE.id, force=True)
    assert (list(removed.untagged), removed.deleted[0]) == (["other:1", "web:1"], ONE.id)


async def test_what_a_task_uses_stays_until_it_has_ended(store: ImageStore) -> None:
    await load(store, saved("web:1"))
    store.hold("task1", ONE.id)
    store.hold("task2", ONE.id)
    for reference in ("web:1", ONE.id):
        with pytest.raises(ImageInUse, match=r"is used by task task1, task2: remove its service first, or use --force"):
            await store.remove(reference)
    removed = await store.remove("web:1", force=True)
    assert (list(removed.untagged), list(removed.deleted)) == (["web:1"], [])
    with pytest.raises(ImageNotFound):
        await store.find("web:1")
    (layer,) = (await store.find(ONE.id)).layers
    store.release("task1")
    store.release("task1")
    assert directories(store) == {layer}
    store.release("task2")
    await eventually(lambda: not store.images())
    await no_rubbish(store)
    assert directories(store) == set()


async def test_an_image_that_was_to_go_and_is_loaded_again_stays(store: ImageStore) -> None:
    await load(store, saved("web:1"))
    store.hold("task1", ONE.id)
    await store.remove("web:1", force=True)
    await load(store, saved("web:1"))
    store.release("task1")
    store = await again(store)
    assert (await store.find("web:1")).id == ONE.id
    await store.stop()
