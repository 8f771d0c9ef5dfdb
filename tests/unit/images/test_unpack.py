"""One layer becomes a directory for overlayfs: whatever a tar has, and nothing beyond the directory."""

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.worker.images.errors import BadLayer
from flota.worker.images.unpack import Unpacked, total_size, unpack
from tests.unit.images.making import Entries, directory, entry, link, sha256, tar


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "layer"
    made.mkdir()
    return made


def put(target: Path, entries: Entries, lowers: tuple[Path, ...] = ()) -> Unpacked:
    return unpack(io.BytesIO(tar(entries)), target, lowers)


def lower(tmp_path: Path, name: str, entries: Entries, lowers: tuple[Path, ...] = ()) -> Path:
    made = tmp_path / name
    made.mkdir()
    put(made, entries, lowers)
    return made


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def test_all_kinds_of_entries_with_their_attributes(target: Path) -> None:
    setuid = entry("usr/bin/su", mode=0o4755, uid=7, gid=8)
    timed = entry("usr/timed", pax_headers={"mtime": "1234567890.123456789"})
    data = tar(
        [
            directory("./", mode=0o711, uid=3),
            directory("usr", mode=0o1777, uid=5, gid=6, mtime=1000),
            directory("usr/bin"),
            (setuid, b"su"),
            (timed, b"12345"),
            link("usr/link", "/usr/bin/su"),
            link("usr/hard", "usr/bin/su", tarfile.LNKTYPE),
            entry("usr/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            entry("usr/disk", tarfile.BLKTYPE, devmajor=7, devminor=0, mode=0o660, gid=6),
            entry("usr/pipe", tarfile.FIFOTYPE, mode=0o600),
            ("usr/" + "long" * 60 + "é", b""),
        ]
    )
    made = unpack(io.BytesIO(data), target)
    assert made == Unpacked(sha256(data), 7, len(data))
    root, usr, su = target.stat(), (target / "usr").stat(), (target / "usr/bin/su").stat()
    assert (stat.S_IMODE(root.st_mode), root.st_uid) == (0o711, 3)
    assert (stat.S_IMODE(usr.st_mode), usr.st_uid, usr.st_gid, usr.st_mtime) == (0o1777, 5, 6, 1000)
    assert (stat.S_IMODE(su.st_mode), su.st_uid, su.st_gid, su.st_nlink) == (0o4755, 7, 8, 2)
    assert (target / "usr/timed").stat().st_mtime_ns == 1234567890_123456789
    assert os.readlink(target / "usr/link") == "/usr/bin/su"
    null, disk = (target / "usr/null").lstat(), (target / "usr/disk").lstat()
    assert (stat.S_ISCHR(null.st_mode), null.st_rdev) == (True, os.makedev(1, 3))
    assert (stat.S_ISBLK(disk.st_mode), disk.st_gid) == (True, 6)
    assert (target / "usr/pipe").is_fifo()
    assert (target / ("usr/" + "long" * 60 + "é")).exists()


def test_extended_attributes_but_those_of_overlayfs(target: Path) -> None:
    # As setcap cap_net_raw+ep writes it, and something that is no UTF-8.
    capability, odd = bytes.fromhex("0100000200200000000000000000000000000000"), b"\xff\xfe\x00"
    headers = {
        "SCHILY.xattr.security.capability": capability.decode(),
        "SCHILY.xattr.user.odd": odd.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.com.apple.quarantine": "x",
    }
    put(target, [entry("ping", pax_headers=headers, uid=5)])
    assert sorted(os.listxattr(target / "ping")) == ["security.capability", "user.odd"]
    assert os.getxattr(target / "ping", "security.capability") == capability
    assert os.getxattr(target / "ping", "user.odd") == odd


def test_whiteouts_and_opaque_directories(target: Path) -> None:
    put(
        target,
        [
            directory("etc"),
            ("etc/.wh.passwd", b""),
            directory("var"),
            ("var/.wh..wh..opq", b""),
            ("var/new", b""),
            (".wh..wh.plnk", b""),
        ],
    )
    assert is_whiteout(target / "etc/passwd")
    assert is_opaque(target / "var")
    assert not is_opaque(target / "etc")
    assert sorted(os.listdir(target)) == ["etc", "var"]


@pytest.mark.parametrize("first", ["whiteout", "directory"])
def test_what_a_layer_both_hides_and_has_shows_only_its_own(target: Path, first: str) -> None:
    hiding: Entries = [(".wh.data", b""), (".wh.file", b"")]
    having: Entries = [directory("data"), ("data/own", b""), ("file", b"own")]
    put(target, [*hiding, *having] if first == "whiteout" else [*having, *hiding])
    assert is_opaque(target / "data")
    assert os.listdir(target / "data") == ["own"]
    assert (target / "file").read_bytes() == b"own"


def test_a_directory_without_an_entry_after_its_whiteout_is_opaque(target: Path) -> None:
    put(target, [(".wh.data", b""), ("data/own", b"")])
    assert is_opaque(target / "data")


def test_later_entries_take_the_place_of_earlier_ones(target: Path) -> None:
    made = put(
        target,
        [
            ("a", b"file"),
            directory("a"),
            ("a/in", b""),
            directory("b", mtime=5),
            ("b/in", b"12345"),
            ("b", b"now a file"),
            link("c", "/etc/passwd"),
            ("c", b"no link"),
            directory("d", mode=0o700),
            ("d/in", b""),
            directory("d", mode=0o750),
            link("e", "a"),
            directory("e"),
        ],
    )
    assert (target / "a/in").exists()
    assert (target / "b").read_bytes() == b"now a file"
    assert (target / "c").read_bytes() == b"no link"
    assert not (target / "c").is_symlink()
    assert (target / "d/in").exists()
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o750
    assert (target / "e").is_dir()
    assert not (target / "e").is_symlink()
    assert made.size == len(b"now a file" + b"no link") == total_size(target)


def test_directories_that_have_no_entry_are_as_in_the_layers_below(target: Path, tmp_path: Path) -> None:
    base = lower(tmp_path, "base", [directory("tmp", mode=0o1777, mtime=77), directory("srv/a", uid=9, mode=0o700)])
    middle = lower(tmp_path, "middle", [("srv/a/x", b"")], (base,))
    put(target, [("tmp/x", b""), ("srv/a/y", b""), ("new/x", b"")], (base, middle))
    tmp, a = (target / "tmp").stat(), (target / "srv/a").stat()
    assert (stat.S_IMODE(tmp.st_mode), tmp.st_mtime) == (0o1777, 77)
    assert (stat.S_IMODE(a.st_mode), a.st_uid) == (0o700, 9)
    assert stat.S_IMODE((target / "new").stat().st_mode) == 0o755


def test_nothing_is_taken_from_what_is_hidden_below(target: Path, tmp_path: Path) -> None:
    base = lower(tmp_path, "base", [directory("gone", uid=9), directory("opaque/in", uid=9), directory("file", uid=9)])
    middle = lower(tmp_path, "middle", [(".wh.gone", b""), ("opaque/.wh..wh..opq", b""), ("file", b"")], (base,))
    put(target, [("gone/x", b""), ("opaque/in/x", b""), ("file/x", b"")], (base, middle))
    for path in ("gone", "opaque/in", "file"):
        assert (target / path).stat().st_uid == 0
    own = tmp_path / "own"
    own.mkdir()
    put(own, [directory("opaque"), ("opaque/.wh..wh..opq", b""), ("opaque/in/x", b"")], (base,))
    assert (own / "opaque/in").stat().st_uid == 0


def test_a_hard_link_to_a_file_of_a_lower_layer_is_a_copy(target: Path, tmp_path: Path) -> None:
    base = lower(tmp_path, "base", [(entry("bin/tool", mode=0o4711, uid=4, mtime=9), b"tool"), link("bin/l", "tool")])
    middle = lower(tmp_path, "middle", [("other", b"")], (base,))
    made = put(target, [link("bin/alias", "bin/tool", tarfile.LNKTYPE)], (base, middle))
    status = (target / "bin/alias").stat()
    assert (target / "bin/alias").read_bytes() == b"tool"
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime, made.size) == (0o4711, 4, 9, 4)
    with pytest.raises(BadLayer, match="hard link to 'bin/none', which is not there"):
        put(target, [link("x", "bin/none", tarfile.LNKTYPE)], (base,))
    with pytest.raises(BadLayer, match="hard link to 'bin/l', which is no file"):
        put(target, [link("x", "bin/l", tarfile.LNKTYPE)], (base,))


def test_sparse_files(target: Path, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(2 << 20)
    for form in ("gnu", "posix"):
        archive = tmp_path / f"{form}.tar"
        command = ["tar", f"--format={form}", "-S", "-cf", str(archive), "-C", str(tmp_path), "sparse"]
        subprocess.run(command, check=True)
        with archive.open("rb") as opened:
            assert unpack(opened, target).size == 2 << 20
        assert (target / "sparse").read_bytes() == source.read_bytes()
        assert (target / "sparse").stat().st_blocks * 512 < 1 << 20
        (target / "sparse").unlink()


OUTSIDE = "/etc/flota-unpack-test"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../x", b"")], "leads out of the layer"),
        ([("a/../../x", b"")], "leads out of the layer"),
        ([link("x", "../../etc/passwd", tarfile.LNKTYPE)], "leads out of the layer"),
        ([link("x", "/etc/passwd", tarfile.LNKTYPE)], "hard link to 'etc/passwd', which is not there"),
        ([("a", b""), ("a/x", b"")], "'a' above it is no directory"),
        ([(".wh...", b"")], "a whiteout of nothing"),
        ([(".wh.", b"")], "a whiteout of nothing"),
        ([entry("x", b"Z")], "unknown type"),
        ([link("loop", "loop"), ("loop/x", b"")], "'loop' above it is no directory"),
        ([("x" * 300, b"")], "File name too long"),
        ([("./", b"")], "the root of a layer is a directory"),
    ],
)
def test_what_is_refused(target: Path, entries: Entries, message: str) -> None:
    with pytest.raises(BadLayer, match=message):
        put(target, entries)


@pytest.mark.parametrize("where", ["/etc", "/", "../../../../../../../../etc", "."])
def test_links_lead_nowhere_but_inside(target: Path, where: str) -> None:
    """A link may come before what is put behind it; for the unpacking thread the layer is all there is."""
    name = Path(OUTSIDE).name
    put(target, [directory("etc"), link("way", where), (f"way/{name}", b"inside")])
    found = [path for path in target.rglob(name) if not path.is_symlink()]
    assert [path.read_bytes() for path in found] == [b"inside"]
    assert not Path(OUTSIDE).exists()
    assert not Path(f"/{name}").exists()


def test_a_link_as_the_last_part_is_replaced_not_followed(target: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    put(target, [link("x", str(victim)), (entry("x", mode=0o777, uid=5), b"overwritten"), (".wh.x", b"")])
    assert victim.read_text() == "untouched"
    assert victim.stat().st_uid == os.getuid()
    assert not (target / "x").is_symlink()


def test_the_unpacking_thread_alone_is_confined(target: Path) -> None:
    here, umask = os.getcwd(), os.umask(0o022)
    os.umask(umask)
    put(target, [("x", b"")])
    assert os.getcwd() == here
    assert Path(target).exists()
    assert os.umask(umask) == umask


def test_damaged_archives(target: Path) -> None:
    good = tar([("a", b"x" * 1000), ("b", b"y" * 1000)])
    for data, message in (
        (b"", "not a tar archive"),
        (b"x" * 2000, "not a tar archive"),
        (good[:1000], "the archive ends too early"),
        (good[:1700], "damaged at byte 1536"),
        (good[:1536] + b"x" * 512 + good[2048:], "damaged at byte 1536"),
    ):
        with pytest.raises(BadLayer, match=message):
            unpack(io.BytesIO(data), target)


def test_an_empty_layer(target: Path) -> None:
    assert unpack(io.BytesIO(bytes(1024)), target) == Unpacked(sha256(bytes(1024)), 0, 1024)
    assert os.listdir(target) == []


def test_what_reading_raises_is_raised_and_nobody_waits(target: Path) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 3 << 20:
                raise TimeoutError
            return super().read(size)

    with pytest.raises(TimeoutError):
        unpack(Breaks(tar([("a", b"x" * (5 << 20))])), target)


NAMES = st.sampled_from(["a", "a/b", "a/b/c", "d", "../e", "/f", "a/.wh.b", ".wh.a", "a/.wh..wh..opq", "d/g", "./"])
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
TARGETS = st.sampled_from(["a", "b", "..", "/", "../..", "/d", "d/g", "/etc", "a/b"])


@given(st.lists(st.tuples(NAMES, KINDS, TARGETS), max_size=8))
def test_any_archive_is_unpacked_or_refused_within_its_directory(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, bytes, str]]
) -> None:
    around = tmp_path_factory.mktemp("around")
    target = around / "in/layer"
    target.mkdir(parents=True)
    data = tar([entry(name, kind, linkname=to if kind in b"12" else "", mode=0o755) for name, kind, to in made])
    try:
        result = unpack(io.BytesIO(data), target)
    except BadLayer:
        pass
    else:
        assert result.size == total_size(target)
    assert sorted(around.rglob("*"))[:2] == [around / "in", target]
    assert [path for path in around.rglob("*") if not path.is_relative_to(target)] == [around / "in"]
