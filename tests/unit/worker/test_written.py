"""What a container changed, read from the writable layer."""

import os
import stat
from pathlib import Path

import pytest

from flota.worker.containers.written import ADDED, DELETED, MODIFIED, changes


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path]:
    """The writable one, and what the image shows."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for path in ("etc/passwd", "bin/vi", "home/user/file", "srv/old/a", "srv/old/b"):
        (lower / path).parent.mkdir(parents=True, exist_ok=True)
        (lower / path).write_text("as it was")
    upper.mkdir()
    return upper, lower


def found(layers: tuple[Path, Path]) -> dict[str, int]:
    return {change.path: change.kind for change in changes(*layers)}


def whiteout(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, 0)


def test_additions_changes_and_deletions_are_told_with_the_directories_they_are_in(layers: tuple[Path, Path]) -> None:
    upper, _ = layers
    (upper / "etc").mkdir()
    (upper / "etc/passwd").write_text("other")
    (upper / "data").mkdir()
    (upper / "data/new").write_text("new")
    (upper / "link").symlink_to("/etc")
    whiteout(upper / "bin/vi")
    whiteout(upper / "home")
    assert found(layers) == {
        "/etc": MODIFIED,
        "/etc/passwd": MODIFIED,
        "/data": ADDED,
        "/data/new": ADDED,
        "/link": ADDED,
        "/bin": MODIFIED,
        "/bin/vi": DELETED,
        "/home": DELETED,
    }


def test_a_directory_that_was_only_copied_is_as_it_was(layers: tuple[Path, Path]) -> None:
    upper, lower = layers
    (upper / "etc").mkdir()
    status = (lower / "etc").stat()
    os.utime(upper / "etc", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert found(layers) == {}
    (upper / "etc").chmod(0o700)
    assert found(layers) == {"/etc": MODIFIED}


def test_a_directory_that_was_made_anew_hides_what_was_in_the_old_one(layers: tuple[Path, Path]) -> None:
    upper, _ = layers
    (upper / "srv/old").mkdir(parents=True)
    (upper / "srv/old/a").write_text("again")
    os.setxattr(upper / "srv/old", "trusted.overlay.opaque", b"y")
    assert found(layers) == {"/srv": MODIFIED, "/srv/old": MODIFIED, "/srv/old/a": MODIFIED, "/srv/old/b": DELETED}


def test_no_link_leads_out_of_the_layers(layers: tuple[Path, Path], tmp_path: Path) -> None:
    upper, lower = layers
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("")
    (lower / "way").symlink_to(tmp_path / "outside")
    (upper / "way").mkdir()
    (upper / "way/secret").write_text("")
    assert found(layers) == {"/way": MODIFIED, "/way/secret": ADDED}
