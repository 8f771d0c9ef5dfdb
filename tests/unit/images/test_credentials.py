"""Credentials for a registry, as Docker's API carries them."""

import base64
import json
from typing import Any

import pytest

from flota.rpc.errors import InvalidArgument
from flota.worker.images.credentials import Credentials, credentials


def given(**values: Any) -> bytes:
    return json.dumps(values).encode()


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ({"username": "u", "password": "p:q", "serveraddress": "https://r"}, Credentials("u", "p:q")),
        ({"username": "ü", "password": ""}, Credentials("ü", "")),
        ({"auth": basic("u:p")}, Credentials("u", "p")),
        ({"identitytoken": "token"}, Credentials("", "", "token")),
    ],
)
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_what_docker_sends(values: dict[str, str], known: Credentials, encode: Any, padded: bool) -> None:
    text = encode(given(**values)).decode()
    assert credentials(text if padded else text.rstrip("=")) == known


def test_what_is_sent() -> None:
    assert Credentials("u", "p:q").basic == basic("u:p:q")


@pytest.mark.parametrize("text", ["", base64.b64encode(given()).decode(), base64.b64encode(given(email="x")).decode()])
def test_none(text: str) -> None:
    # Root's own credentials are not for everybody.
    assert credentials(text) is None


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
        credentials(text)
    assert text not in str(caught.value)
