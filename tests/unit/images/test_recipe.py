"""A layer's tar, made again from the directory it was unpacked into: byte for byte, or not at all."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flota.rpc.errors import FailedPrecondition
from flota.worker.images import recipe
from flota.worker.images.unpack import unpack
from tests.unit.images.making import directory, entry, link, sha256, tar

KINDS = [
    directory("./", mode=0o711),
    directory("usr", mtime=1000),
    (entry("usr/file", pax_headers={"mtime": "1.5"}), os.urandom(3000)),
    (entry("usr/block"), b"x" * 1024),
    ("usr/empty", b""),
    link("usr/link", "/etc/passwd"),
    link("usr/hard", "usr/file", tarfile.LNKTYPE),
    entry("usr/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
    ("usr/" + "long" * 60 + "é", b"long"),
    ("etc/.wh.gone", b""),
    (".wh..wh.aufs", b"not kept on the disk"),
    ("top", b"top"),
]


def there_and_back(data: bytes, place: Path) -> bytes:
    """Unpack and make again."""
    layer, file = place / "layer", place / "recipe"
    layer.mkdir()
    with file.open("wb") as target:
        made = unpack(io.BytesIO(data), layer, (), target)
    assert (made.diff_id, made.tar_size) == (sha256(data), len(data))
    result = bytearray()
    recipe.replay(file, layer, made.diff_id, result.extend)
    return bytes(result)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_kind_of_entry(tmp_path: Path, form: int) -> None:
    data = tar(KINDS, form)
    assert there_and_back(data, tmp_path) == data


@pytest.mark.parametrize("end", [b"", b"\0" * 512, b"\0" * 20480, b"\0" * 1024 + b"whatever"])
def test_whatever_is_behind_the_last_entry(tmp_path: Path, end: bytes) -> None:
    data = tar([("a", b"a" * 700)])[:1536] + b"\0" * 1024 + end
    assert there_and_back(data, tmp_path) == data


def test_sparse_files(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"end")
    data = subprocess.run(
        ["tar", "-C", tmp_path, "--sparse", "--format=gnu", "-c", "holes"], capture_output=True, check=True
    ).stdout
    assert len(data) < 1 << 18
    assert there_and_back(data, tmp_path) == data


def test_a_recipe_is_small(tmp_path: Path) -> None:
    data = tar([(f"file{number}", os.urandom(1000)) for number in range(500)])
    assert there_and_back(data, tmp_path) == data
    assert (tmp_path / "recipe").stat().st_size < len(data) / 20


def test_what_cannot_be_made_again_is_refused(tmp_path: Path) -> None:
    # The first of two files of one name is nowhere any more.
    data = tar([("twice", b"first"), ("twice", b"other")])
    with pytest.raises(FailedPrecondition, match=f"layer {sha256(data)} cannot be made again as it came"):
        there_and_back(data, tmp_path)


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "file").write_bytes(b"outside")
    data = tar([directory(f"{secret}"[1:]), link("way", str(secret)), ("way/file", b"in here")])
    # In the layer `way` leads to a directory of the layer; on this machine to another one.
    assert there_and_back(data, tmp_path) == data


NAMES = st.sampled_from(["a", "b", "a/c", "a/d", "b/c", "a/c/e"])


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500), st.booleans()), max_size=8))
def test_any_layer_is_made_again_or_refused(entries: list[tuple[str, bytes, bool]]) -> None:
    import tempfile

    from flota.worker.images.errors import BadLayer

    data = tar([directory(name) if folder else (name, content) for name, content, folder in entries])
    with tempfile.TemporaryDirectory() as place:
        try:
            assert there_and_back(data, Path(place)) == data
        except (FailedPrecondition, BadLayer):
            # Only where something took another thing's place.
            assert len(entries) > 1
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            assert len(entries) > 1
