"""Where images of a name are asked for, by what registries.conf(5) says."""

from pathlib import Path

import pytest

from flota.v1.image_references import ImageReference
from flota.worker.images.errors import PullRefused, RegistryUnavailable
from flota.worker.images.registry.configuration import Configuration, is_insecure


def read(tmp_path: Path, text: str) -> Configuration:
    file = tmp_path / "registries.conf"
    file.write_text(text)
    return Configuration.read({"CONTAINERS_REGISTRIES_CONF": str(file)})


def asked(configuration: Configuration, name: str) -> list[str]:
    """HOST/PATH of each, with a mark where it may be plain."""
    found = configuration.endpoints(ImageReference.parse(name), ())
    return [f"{one.host}/{one.path}{'!' if one.insecure else ''}" for one in found]


def test_without_a_word_it_is_the_registry_itself() -> None:
    assert asked(Configuration(), "r.io/shop/web:1") == ["r.io/shop/web"]
    assert asked(Configuration(), "busybox") == ["docker.io/library/busybox"]
    assert asked(Configuration(), "127.0.0.1:5000/web") == ["127.0.0.1:5000/web!"]


def test_mirrors_come_first_and_the_longest_prefix_counts(tmp_path: Path) -> None:
    configuration = read(
        tmp_path,
        """
        [[registry]]
        location = "r.io"
        [[registry.mirror]]
        location = "near:5000/r"
        insecure = true
        [[registry.mirror]]
        location = "by-digest"
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "r.io/shop"
        location = "shop.example/images"
        insecure = true
        """,
    )
    assert asked(configuration, "r.io/web:1") == ["near:5000/r/web!", "r.io/web"]
    digest = f"sha256:{'0' * 64}"
    assert asked(configuration, f"r.io/web@{digest}") == ["near:5000/r/web!", "by-digest/web", "r.io/web"]
    assert asked(configuration, "r.io/shop/web:1") == ["shop.example/images/web!"]
    assert asked(configuration, "r.io/shopping:1") == ["near:5000/r/shopping!", "r.io/shopping"]
    assert asked(configuration, "r.io.example/web:1") == ["r.io.example/web"]


def test_all_hosts_of_a_domain(tmp_path: Path) -> None:
    configuration = read(
        tmp_path,
        """
        [[registry]]
        prefix = "*.example.com"
        [[registry.mirror]]
        location = "mirror.example"
        """,
    )
    assert asked(configuration, "a.example.com/web:1") == ["mirror.example/web", "a.example.com/web"]
    assert asked(configuration, "example.com/web:1") == ["example.com/web"]


def test_a_registry_that_is_blocked(tmp_path: Path) -> None:
    configuration = read(tmp_path, '[[registry]]\nlocation = "r.io"\nblocked = true\n')
    with pytest.raises(PullRefused, match=r"r.io/web:1 is not pulled: registries.conf\(5\) on this machine blocks it"):
        configuration.endpoints(ImageReference.parse("r.io/web:1"), ())


def test_the_form_of_before_2018(tmp_path: Path) -> None:
    configuration = read(tmp_path, '[registries.insecure]\nregistries = ["old:5000"]\n')
    assert asked(configuration, "old:5000/web") == ["old:5000/web!"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("registry = 1", "registry is no list of tables"),
        ("[[registry]]", "without location"),
        ('[[registry]]\nlocation = "r"\ninsecure = "yes"', "insecure is neither true nor false"),
        ('[[registry]]\nlocation = "r"\n[[registry.mirror]]\ninsecure = true', "without location"),
        ('[[registry]]\nlocation = "r"\npull-from-mirror = "no"', "invalid pull-from-mirror 'no'"),
        ("[[", "registries.conf: "),
    ],
)
def test_a_file_that_says_nothing_sensible_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RegistryUnavailable, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("host", "insecure"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.1.2.3", True),
        ("[::1]:5000", True),
        ("named:5000", True),
        ("named", False),
        ("bare:80", True),
        ("bare", True),
        ("docker.io", False),
        ("10.0.0.1:5000", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_who_may_speak_plain_http(host: str, insecure: bool) -> None:
    assert is_insecure(host, ["named:5000", "bare"]) == insecure
