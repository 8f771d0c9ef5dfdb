"""Paths inside images, programs that can be run, mounts as config.json wants them."""

import os
import platform
import struct
from pathlib import Path

import pytest

from flota.v1.types_pb2 import Mount
from flota.worker.runtime import entry, inside, mounts, oci, placing
from flota.worker.runtime.bundle import HostMount
from flota.worker.runtime.container import BadContainer, ContainerError, Exit, signal_number


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "a/b").mkdir(parents=True)
    (made / "a/b/file").write_text("text")
    links = {"absolute": "/a", "out": "../../../a/b", "loop": "loop", "a/up": "..", "chain": "absolute/b"}
    for name, target in links.items():
        (made / name).symlink_to(target)
    return made


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b/file", "a/b/file"),
        ("absolute/b", "a/b"),
        ("/out/file", "a/b/file"),
        ("chain//./file", "a/b/file"),
        ("/a/up/a", "a"),
        ("/../../etc", "etc"),
        ("/nothing/here", "nothing/here"),
        ("/a/b/file/below", "a/b/file/below"),
    ],
)
def test_no_link_leads_out_of_a_root(root: Path, path: str, expected: str) -> None:
    assert inside.resolve(root, path) == root / expected


def test_a_loop_of_links_is_an_error(root: Path) -> None:
    with pytest.raises(OSError, match="loop"):
        inside.resolve(root, "/loop/x")


def test_text_of_what_is_no_file_is_empty(root: Path) -> None:
    assert inside.read_text(root, "/chain/file") == "text"
    assert inside.read_text(root, "/a") == ""
    assert inside.read_text(root, "/nothing") == ""
    os.mkfifo(root / "fifo")
    assert inside.read_text(root, "/fifo") == ""


def elf(machine: int, loader: bytes = b"", *, wide: bool = True, order: str = "<") -> bytes:
    """A program's head with one segment that names a loader (or none)."""
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2]) + bytes(10)
    if wide:
        header = struct.pack(f"{order}HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        segment = struct.pack(f"{order}IIQQQQQQ", 3 if loader else 1, 4, 200, 0, 0, len(loader), 0, 1)
    else:
        header = struct.pack(f"{order}HHIIIIIHHHHHH", 2, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        segment = struct.pack(f"{order}IIIIIIII", 3 if loader else 1, 200, 0, 0, len(loader), 0, 4, 1)
    return (ident + header + segment).ljust(200, b"\0") + loader


HERE = {"x86_64": 62, "aarch64": 183}[platform.machine()]
LOADER = b"/lib/ld.so\0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (elf(HERE), None),
        (elf(HERE, b"/a/b/file\0"), None),
        (elf(HERE, LOADER), "'/bin/p', needs '/lib/ld.so', which is not in the image"),
        (elf(22, LOADER, order=">"), f"'/bin/p', is made for s390x; this node is {platform.machine()}"),
        (elf(9999), "is made for another architecture"),
        (b"\x7fELF", "is neither a program nor a script"),
        (b"#!/a/b/file -x\nrest", None),
        (b"#! /bin/none\n", "'/bin/p', needs '/bin/none', which is not in the image"),
        (b"#!\n", "has an empty #! line"),
        (b"", "is neither a program nor a script"),
    ],
)
def test_what_a_program_needs(root: Path, content: bytes, message: str | None) -> None:
    (root / "bin").mkdir()
    (root / "bin/p").write_bytes(content)
    (root / "bin/p").chmod(0o755)
    if message is None:
        entry.check(root, "p", "/", ["/sbin", "/bin"], lambda _: False)
        return
    with pytest.raises(BadContainer, match=message):
        entry.check(root, "p", "/", ["/sbin", "/bin"], lambda _: False)


def test_a_32_bit_program_on_its_64_bit_machine(root: Path) -> None:
    narrow = {"x86_64": 3, "aarch64": 40}[platform.machine()]
    (root / "p").write_bytes(elf(narrow, LOADER, wide=False))
    (root / "p").chmod(0o755)
    with pytest.raises(BadContainer, match=r"needs '/lib/ld\.so'"):
        entry.check(root, "./p", "/", [], lambda _: False)


def test_what_is_on_a_mount_is_not_judged(root: Path) -> None:
    entry.check(root, "/bin/none", "/", [], lambda path: path.startswith("/bin"))
    entry.check(root, "none", "/", ["/bin"], lambda path: path.startswith("/bin"))
    (root / "p").write_text("#!/bin/none\n")
    (root / "p").chmod(0o755)
    entry.check(root, "p/../p", "/", [], lambda path: path.startswith("/bin"))


def test_a_program_is_looked_for_from_the_working_directory(root: Path) -> None:
    (root / "a/b/run").write_text("#!/a/b/file\n")
    (root / "a/b/run").chmod(0o755)
    entry.check(root, "b/run", "/a", [], lambda _: False)
    with pytest.raises(BadContainer, match=r"'b/run', is not in the image$"):
        entry.check(root, "b/run", "/", [], lambda _: False)


def test_deeper_mounts_come_later_and_ours_give_way() -> None:
    wanted = [placing.tmpfs(Mount(target=path)) for path in ("/a/b/c", "/a", "/etc/hosts")]
    own = [placing.file(f"/etc/{name}", Path("/run") / name, read_only=True) for name in ("hosts", "hostname")]
    arranged = placing.arrange(wanted, own)
    assert [(one.target, one.kind) for one in arranged] == [
        ("/a", "tmpfs"),
        ("/etc/hosts", "tmpfs"),
        ("/etc/hostname", "bind"),
        ("/a/b/c", "tmpfs"),
    ]


@pytest.mark.parametrize(("path", "expected"), [("/a/../b//c/", "/b/c"), ("//x", "/x"), ("/../x", "/x")])
def test_targets_in_their_shortest_form(path: str, expected: str) -> None:
    assert placing.target(path) == expected


def test_options_of_a_tmpfs() -> None:
    usual = ("nosuid", "nodev", "noexec")
    assert placing.tmpfs(Mount(target="/x")) == HostMount("/x", "tmpfs", "tmpfs", (*usual, "mode=1777"))
    mount = Mount(target="/x", tmpfs_size_bytes=4096, tmpfs_mode=0o700, read_only=True)
    assert placing.tmpfs(mount).options == (*usual, "mode=700", "size=4096", "ro")


def test_options_of_a_bind(tmp_path: Path) -> None:
    mount = Mount(source=str(tmp_path), target="/x")
    assert placing.bind(mount).options == ("rbind", "rprivate", "rw")
    mount = Mount(source=str(tmp_path), target="/x", read_only=True, bind_nonrecursive=True)
    mount.bind_propagation = Mount.PROPAGATION_RSLAVE
    assert placing.bind(mount).options == ("bind", "slave", "ro")


def test_what_is_below_a_read_only_bind_is_read_only_unless_it_shall_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    options = ("rbind", "rprivate", "ro")
    assert placing.bind(Mount(source=str(tmp_path), target="/x", read_only=True)).options == (*options, "rro")
    assert placing.bind(Mount(source=str(file), target="/x", read_only=True)).options == options
    writable = Mount(source=str(tmp_path), target="/x", read_only=True, bind_writable_below=True)
    assert placing.bind(writable).options == options


def test_mounts_below_a_directory() -> None:
    assert Path("/proc") in mounts.below(Path("/proc"))
    assert mounts.is_mounted(Path("/proc"))
    assert not mounts.is_mounted(Path("/proc/self"))


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("2024 warning\nexecutable file `x` not found in $PATH: No such file or directory\n", BadContainer),
        ("mkdir `/sys/fs/cgroup/x`: No space left on device", ContainerError),
        ("", BadContainer),
    ],
)
def test_what_the_runtime_refuses(output: str, kind: type[ContainerError]) -> None:
    error = oci.refusal(output)
    assert type(error) is kind
    assert "warning" not in str(error)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (Exit(0), ""),
        (Exit(1), "task: non-zero exit (1)"),
        (Exit(137), "task: non-zero exit (137): SIGKILL"),
        (Exit(137, oom_killed=True), "task: non-zero exit (137): out of memory"),
        (Exit(255), "task: non-zero exit (255)"),
        (Exit(None), "the container's monitor was lost, and with it the exit code"),
        (Exit(None, by_reboot=True), "the machine went down, and the container with it"),
    ],
)
def test_how_a_container_ended(end: Exit, text: str) -> None:
    assert end.describe() == text


@pytest.mark.parametrize(
    ("name", "number"), [("", 15), ("TERM", 15), ("sigint", 2), ("9", 9), ("SIGRTMIN+3", 37), ("RTMIN+1", 35)]
)
def test_signals_by_name(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["SIGNOTHING", "0", "65", "-1", "TERM+1"])
def test_unknown_signals(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown signal {name!r}".replace("+", r"\+")):
        signal_number(name)
