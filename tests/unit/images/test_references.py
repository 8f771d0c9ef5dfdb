"""Names of images, short and in full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.v1.image_references import ImageReference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("shop/web", "docker.io/shop/web:latest", "shop/web:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("localhost/web:1", "localhost/web:1", "localhost/web:1"),
        ("registry:5000/a/b", "registry:5000/a/b:latest", "registry:5000/a/b:latest"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000/a:b"),
        ("REGISTRY/a", "REGISTRY/a:latest", "REGISTRY/a:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"a.b/c:1@{DIGEST}", f"a.b/c:1@{DIGEST}", f"a.b/c:1@{DIGEST}"),
    ],
)
def test_what_is_left_out_is_filled_in(text: str, full: str, familiar: str) -> None:
    reference = ImageReference.parse(text).tagged()
    assert str(reference) == full
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    "text",
    ["", "Busybox", "a//b", "a:", "a:b:c", "/a", "a/", "-a", "a@sha256:12", "a:" + "b" * 129, "a b", "a\n", "ä", "a@b"],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed is \[HOST"):
        ImageReference.parse(text)


def test_names_have_a_longest() -> None:
    ImageReference.parse("a/" * 127 + "a")
    with pytest.raises(ValueError, match="longer than 255"):
        ImageReference.parse("a/" * 128 + "a")


@given(
    host=st.sampled_from(["docker.io", "localhost", "a.b", "UP", "r:5000"]),
    path=st.from_regex(r"[a-z0-9]{1,3}([._-][a-z0-9]{1,2})?(/(library|[a-z0-9.]{0,2}[a-z])){0,2}", fullmatch=True),
    tag=st.sampled_from(["", "latest", "V1._-x"]),
    digest=st.sampled_from(["", DIGEST]),
)
def test_familiar_and_full_names_are_the_same_image(host: str, path: str, tag: str, digest: str) -> None:
    text = f"{host}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    try:
        reference = ImageReference.parse(text)
    except ValueError:
        return
    assert ImageReference.parse(str(reference)) == reference
    assert ImageReference.parse(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))
