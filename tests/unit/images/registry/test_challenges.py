"""WWW-Authenticate, as registries write it."""

import pytest

from flota.worker.images.registry.challenges import Challenge, parse


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"',
            [Challenge("bearer", {"realm": "https://a/token", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (
            'Negotiate, BASIC Realm="a \\"b\\"", bearer realm=plain',
            [
                Challenge("negotiate"),
                Challenge("basic", {"realm": 'a "b"'}),
                Challenge("bearer", {"realm": "plain"}),
            ],
        ),
        ("", []),
        ('"', []),
        ("Bearer realm=", [Challenge("bearer")]),
    ],
)
def test_what_is_read(header: str, found: list[Challenge]) -> None:
    assert parse([header]) == found
