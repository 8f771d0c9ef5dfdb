"""What skopeo says, in one line for people."""

from pathlib import Path

import pytest

from flota.v1.image_references import ImageReference
from flota.worker.images.errors import ImageNotFound, PullRefused, RegistryUnavailable, RegistryUnreachable
from flota.worker.images.skopeo import Repository

NAME = ImageReference.parse("r.io/web:1")


def fatal(text: str) -> str:
    quoted = text.replace('"', '\\"')
    return (
        f'time="2026-01-01T00:00:00Z" level=warning msg="odd"\ntime="2026-01-01T00:00:00Z" level=fatal msg="{quoted}"\n'
    )


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            'Error parsing image name "docker://r.io/web:1": reading manifest 1 in r.io/web: manifest unknown: no',
            ImageNotFound,
            "no such image: r.io/web:1 (registry r.io has none of that name)",
        ),
        (
            'Error parsing image name "docker://r.io/web:1": reading manifest 1 in r.io/web: unauthorized: '
            "authentication required",
            PullRefused,
            "registry r.io refuses r.io/web:1: unauthorized: authentication required (credentials: flota login, "
            "--with-registry-auth)",
        ),
        (
            'Error parsing image name "docker://r.io/web:1": pinging container registry r.io: Get "https://r.io/v2/": '
            "dial tcp 192.0.2.1:443: connect: connection refused",
            RegistryUnreachable,
            "registry r.io cannot be reached: connect: connection refused",
        ),
        (
            'Error parsing image name "docker://r.io/web:1": pinging container registry r.io: Get "https://r.io/v2/": '
            "dial tcp: lookup r.io on 192.0.2.53:53: no such host",
            RegistryUnreachable,
            "registry r.io cannot be reached: lookup r.io on 192.0.2.53:53: no such host",
        ),
        (
            'pinging container registry r.io: Get "https://r.io/v2/": http: server gave HTTP response to HTTPS client',
            RegistryUnavailable,
            "pushing r.io/web:1 to registry r.io failed: it speaks plain HTTP, which is only trusted if the daemon's "
            "--insecure-registry names it",
        ),
        (
            'pinging container registry r.io: Get "https://r.io/v2/": x509: certificate signed by unknown authority',
            RegistryUnavailable,
            "pushing r.io/web:1 to registry r.io failed: x509: certificate signed by unknown authority (is its "
            "authority in /etc/docker/certs.d/r.io/ca.crt?)",
        ),
        (
            "reading manifest 1 in r.io/web: toomanyrequests: You have reached your pull rate limit.",
            RegistryUnavailable,
            "pushing r.io/web:1 to registry r.io failed: toomanyrequests: You have reached your pull rate limit.",
        ),
    ],
)
def test_failures(said: str, kind: type[Exception], message: str) -> None:
    repository = Repository("skopeo", NAME, Path("/nowhere"), False, 1)
    error = repository.failure(fatal(said))
    assert (type(error), str(error)) == (kind, message)


def test_a_failure_without_its_usual_words() -> None:
    error = Repository("skopeo", NAME, Path("/nowhere"), False, 1).failure("panic: oh\n")
    assert str(error) == "pushing r.io/web:1 to registry r.io failed: panic: oh"
