"""`flota image`: what goes to the node's worker, and what comes back."""

import base64
import io
import json
import sys
import time
from pathlib import Path

import pytest

from flota.cli.commands.image_pull import Progress
from flota.manager.clock import timestamp
from flota.v1.local_pb2 import Image
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


@pytest.fixture
def images(daemon: Daemon) -> list[Image]:
    now = daemon.cluster.clock.now()
    new = Image(
        id="sha256:" + "a1" * 32, references=["shop/web:1.1", "localhost:5000/shop/web:1.1"],
        digests=["shop/web@sha256:" + "0" * 64], size_bytes=4_261_550, created_at=timestamp(now - 7200),
        labels={"team": "shop"},
    )  # fmt: skip
    old = Image(id="sha256:" + "b2" * 32, size_bytes=999, created_at=timestamp(now - 20 * 86400))
    daemon.agent.images += [old, new]
    return [new, old]


def test_ls_has_a_row_for_each_name(daemon: Daemon, images: list[Image], flota: Flota) -> None:
    assert flota("image", "ls").out == (
        "REPOSITORY                TAG       IMAGE ID       CREATED       SIZE\n"
        "shop/web                  1.1       a1a1a1a1a1a1   2 hours ago   4.26MB\n"
        "localhost:5000/shop/web   1.1       a1a1a1a1a1a1   2 hours ago   4.26MB\n"
        "<none>                    <none>    b2b2b2b2b2b2   2 weeks ago   999B\n"
    )
    assert flota("image", "ls", "-q").lines == ["a1a1a1a1a1a1", "b2b2b2b2b2b2"]
    assert flota("image", "ls", "--no-trunc", "-q", "shop/web").lines == [images[0].id]
    names = ("--format", "{{.Repository}}:{{.Tag}}")
    assert flota("image", "ls", *names, "--filter", "reference=shop/*").lines == ["shop/web:1.1"]
    assert flota("image", "ls", *names, "--filter", "dangling=true").lines == ["<none>:<none>"]
    assert flota("image", "ls", *names, "--filter", "label=team=other").lines == []
    row = json.loads(flota("image", "ls", "--format", "json", "shop/web").out)
    assert (row["ID"], row["Size"], row["Digest"]) == ("a1a1a1a1a1a1", "4.26MB", "sha256:" + "0" * 64)
    assert flota("image", "ls", "--digests").lines[0].split() == [
        "REPOSITORY", "TAG", "DIGEST", "IMAGE", "ID", "CREATED", "SIZE",
    ]  # fmt: skip


def test_pull_shows_how_it_goes(
    daemon: Daemon, images: list[Image], flota: Flota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    done = flota("image", "pull", "shop/web:1.1")
    assert (done.status, done.out) == (0, "Pulling from shop/web\nshop/web:1.1\n")
    assert daemon.agent.pulled is not None
    assert (daemon.agent.pulled.reference, daemon.agent.pulled.registry_auth) == ("shop/web:1.1", "")
    credentials = {"auths": {"localhost:5000": {"auth": base64.b64encode(b"me:secret").decode()}}}
    (tmp_path / "config.json").write_text(json.dumps(credentials))
    assert flota("image", "pull", "--quiet", "localhost:5000/shop/web").out == "localhost:5000/shop/web\n"
    sent = json.loads(base64.urlsafe_b64decode(daemon.agent.pulled.registry_auth))
    assert (sent["username"], sent["password"]) == ("me", "secret")
    assert flota("image", "pull", "shop/web", "--format", "{{.ID}}").lines[-1] == images[1].id
    done = flota("image", "pull", "nope")
    assert done.status == 1
    assert done.err.endswith("no such image: nope (registry docker.io has none of that name)\n")


def test_load_streams_the_archive(daemon: Daemon, flota: Flota, tmp_path: Path) -> None:
    daemon.agent.images = [Image(id="sha256:" + "a1" * 32, references=["shop/web:1.1"]), Image(id="sha256:c3")]
    archive = tmp_path / "shop.tar"
    content = b"tar" + bytes(range(256)) * 12_000
    archive.write_bytes(content)
    done = flota("image", "load", "-i", str(archive))
    assert (done.status, done.out) == (0, "Loaded image: shop/web:1.1\nLoaded image ID: sha256:c3\n")
    assert daemon.agent.received == content
    assert flota("image", "load", "--quiet", "--input", str(archive)).out == ""
    assert flota("image", "load", "-i", str(archive), "--format", "{{.References}}").lines == ["[shop/web:1.1]", "[]"]


def test_load_says_what_is_wrong(daemon: Daemon, flota: Flota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = flota("image", "load", "-i", str(tmp_path / "nope.tar"))
    assert (done.status, done.err) == (1, f"flota: cannot read {tmp_path / 'nope.tar'}: No such file or directory\n")
    done = flota("image", "load", "-i", str(tmp_path))
    assert (done.status, done.err) == (1, f"flota: cannot read {tmp_path}: Is a directory\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nonsense")))
    done = flota("image", "load")
    assert done.status == 1
    assert done.err == "flota: Error response from daemon: the file is not a tar archive with an image\n"


def test_import_sends_options_then_data(daemon: Daemon, flota: Flota, tmp_path: Path) -> None:
    root = tmp_path / "rootfs.tar"
    root.write_bytes(b"files")
    done = flota(
        "image", "import", "--change", 'CMD ["/bin/sh"]', "-c", "ENV A=1", "--platform", "linux/arm64", str(root), "b:1"
    )
    assert (done.status, done.out) == (0, "sha256:" + "ab" * 32 + "\n")
    assert daemon.agent.received == b"files"
    options = daemon.agent.options
    assert options is not None
    assert (options.reference, list(options.changes)) == ("b:1", ['CMD ["/bin/sh"]', "ENV A=1"])
    assert (options.platform.os, options.platform.architecture) == ("linux", "arm64")
    done = flota("image", "import", "--platform", "arm64", str(root))
    assert (done.status, done.err) == (
        125,
        "flota: invalid --platform 'arm64': OS/ARCH is needed, such as linux/amd64\n",
    )


def test_rm_tells_what_has_gone(daemon: Daemon, images: list[Image], flota: Flota) -> None:
    done = flota("image", "rm", "shop/web:1.1", "nope:1")
    assert (done.status, done.err) == (1, "flota: no such image: nope:1\n")
    assert done.out == f"Untagged: shop/web:1.1\nDeleted: {images[0].id}\n"


def test_push_tag_and_inspect(daemon: Daemon, images: list[Image], flota: Flota) -> None:
    digest = "sha256:" + "d" * 64
    assert flota("image", "push", "shop/web:1.1").lines == ["Pushing to shop/web", f"shop/web:1.1@{digest}"]
    assert flota("image", "push", "-q", "shop/web:1.1").lines == [f"shop/web:1.1@{digest}"]
    assert flota("image", "tag", "shop/web:1.1", "web:2").status == 0
    assert (daemon.agent.tagged.source, daemon.agent.tagged.target) == ("shop/web:1.1", "web:2")
    shown = json.loads(flota("image", "inspect", "shop/web:1.1").out)[0]
    assert (shown["Id"], shown["Config"]) == (images[0].id, {"Cmd": ["sh"]})
    done = flota("image", "inspect", "nope")
    assert (done.status, done.err) == (1, "flota: no such image: nope\n")


def test_save_leaves_a_whole_file_or_none(daemon: Daemon, flota: Flota, tmp_path: Path) -> None:
    saved = tmp_path / "shop.tar"
    assert flota("image", "save", "--output", str(saved), "shop/web:1.1").status == 0
    assert saved.read_bytes() == b"first second"
    other = tmp_path / "other.tar"
    assert flota("image", "save", "-o", str(other), "nope").status == 1
    assert sorted(one.name for one in tmp_path.glob("*.tar*")) == ["shop.tar"]
    assert flota("image", "save", "shop/web:1.1").out == "first second"
    done = flota("image", "save", "-o", str(tmp_path / "no/where"), "shop/web:1.1")
    assert done.err == f"flota: cannot write {tmp_path / 'no/where'}: No such file or directory\n"


def test_prune_says_what_has_gone(daemon: Daemon, flota: Flota) -> None:
    done = flota("image", "prune", "--all", "--force", "--filter", "until=24h", "--filter", "label=a=b")
    assert done.lines == ["untagged: web:1", "deleted: sha256:1", "Total reclaimed space: 5MB"]
    asked = daemon.agent.pruned_images
    assert (asked.all, dict(asked.labels)) == (True, {"a": "b"})
    assert abs(time.time() - 86400 - asked.until.ToSeconds()) < 3600
    done = flota("image", "prune", "--force", "--filter", "until=soon")
    assert (done.status, done.err.startswith("flota: invalid --filter 'until=soon': a duration such as 24h")) == (
        125,
        True,
    )


def test_a_bar_shows_how_a_pull_goes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress()
    progress.show("Pulling from shop/web")
    progress.show("Downloading", 5_000_000, 10_000_000)
    progress.show("Downloading", 10_000_000, 10_000_000)
    progress.show("Digest: sha256:1")
    shown = capsys.readouterr().out
    half, whole = f"[{'=' * 20}>{' ' * 19}] 5MB/10MB", f"[{'=' * 40}] 10MB/10MB"
    assert shown == f"Pulling from shop/web\n\r{half}\x1b[K\r{whole}\x1b[K\r\x1b[KDigest: sha256:1\n"
