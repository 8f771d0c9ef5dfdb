"""What registries answer when something is wrong, in one line for people."""

import json

import pytest

from flota.worker.images.errors import ImageNotFound, PullRefused, RegistryUnavailable
from flota.worker.images.registry.failures import Failures, Interrupted


def body(code: str, message: str, detail: object = None) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message, "detail": detail}]}).encode()


@pytest.mark.parametrize(
    ("status", "said", "kind", "message"),
    [
        (
            401,
            body("UNAUTHORIZED", "authentication required"),
            PullRefused,
            "registry r.io refuses web:1: unauthorized: authentication required (credentials: flota login, "
            "--with-registry-auth)",
        ),
        (403, b"", PullRefused, "status 403 (forbidden)"),
        (404, body("NAME_UNKNOWN", "no"), ImageNotFound, "no such image: web:1 (registry r.io has none of that name)"),
        (429, b"", Interrupted, "pulling web:1 from registry r.io failed: status 429 (too many requests)"),
        (503, b"<html>", Interrupted, "pulling web:1 from registry r.io failed: status 503"),
        (
            500,
            body("UNKNOWN", "unknown error", "write /data: i/o error"),
            Interrupted,
            "unknown: write /data: i/o error",
        ),
        (500, body("UNKNOWN", "unknown error", {"Err": 5}), Interrupted, "failed: unknown: unknown error"),
        # It will not be better in a second.
        (
            500,
            body("UNKNOWN", "unknown error", "write /data: no space left on device"),
            RegistryUnavailable,
            "pulling web:1 from registry r.io failed: unknown: write /data: no space left on device",
        ),
        (400, body("DIGEST_INVALID", "odd"), RegistryUnavailable, "failed: digest_invalid: odd"),
    ],
)
def test_answers(status: int, said: bytes, kind: type[Exception], message: str) -> None:
    error = Failures("web:1", "r.io", 5).answer(status, said, manifest=True)
    assert type(error) is kind
    assert message in str(error)


def test_what_was_being_done_is_said() -> None:
    failures = Failures("web:1", "r.io", 5, "pushing web:1 to")
    assert str(failures.answer(400, b"")) == "pushing web:1 to registry r.io failed: status 400"
