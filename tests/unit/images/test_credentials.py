"""Credentials for a registry, from Docker's API to skopeo's file."""

import base64
import json
from typing import Any

import pytest

from flota.rpc.errors import InvalidArgument
from flota.worker.images.credentials import auth_file


def given(**values: Any) -> bytes:
    return json.dumps(values).encode()


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("values", "entry"),
    [
        ({"username": "u", "password": "p:q", "serveraddress": "https://r"}, {"auth": basic("u:p:q")}),
        ({"username": "ü", "password": ""}, {"auth": basic("ü:")}),
        ({"auth": basic("u:p")}, {"auth": basic("u:p")}),
        (
            {"identitytoken": "token"},
            {"auth": basic("00000000-0000-0000-0000-000000000000:"), "identitytoken": "token"},
        ),
    ],
)
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_what_docker_sends(values: dict[str, str], entry: dict[str, str], encode: Any, padded: bool) -> None:
    text = encode(given(**values)).decode()
    text = text if padded else text.rstrip("=")
    assert json.loads(auth_file("r:5000", text)) == {"auths": {"r:5000": entry}}


@pytest.mark.parametrize("text", ["", base64.b64encode(given()).decode(), base64.b64encode(given(email="x")).decode()])
def test_none(text: str) -> None:
    # An empty file: root's own credentials are not for everybody.
    assert json.loads(auth_file("r", text)) == {"auths": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not base64!", "base64 of a JSON object"),
        (base64.b64encode(b"no json").decode(), "base64 of a JSON object"),
        (base64.b64encode(b"[]").decode(), "base64 of a JSON object"),
        (base64.b64encode(given(username=1, password="x")).decode(), "username is no text"),
        (base64.b64encode(given(registrytoken="x")).decode(), "registrytoken is not supported"),
    ],
)
def test_what_is_refused_is_not_repeated(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        auth_file("r", text)
    assert text not in str(caught.value)
