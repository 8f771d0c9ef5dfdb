"""What a registry is shown: tokens are got once, renewed in time, and by one for all."""

import asyncio
import json
from collections.abc import Mapping

import pytest

from flota.worker.images.credentials import Credentials
from flota.worker.images.errors import PullRefused
from flota.worker.images.registry.authorization import Authorization
from flota.worker.images.registry.challenges import Challenge
from flota.worker.images.registry.failures import Failures

BEARER = Challenge("bearer", {"realm": "https://auth/token", "service": "s"})
BASIC = Challenge("basic", {"realm": "r"})


class Server:
    """Gives tokens 1, 2, ..., each for so many seconds."""

    def __init__(self, seconds: float = 300) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, str], bool]] = []
        self.seconds = seconds
        self.status = 200

    async def __call__(
        self, realm: str, parameters: Mapping[str, str], headers: Mapping[str, str], posted: bool
    ) -> tuple[int, bytes]:
        self.asked.append((realm, dict(parameters), dict(headers), posted))
        await asyncio.sleep(0)
        return self.status, json.dumps({"token": str(len(self.asked)), "expires_in": self.seconds}).encode()


def authorization(server: Server, credentials: Credentials | None = None) -> Authorization:
    return Authorization("shop/web", credentials, Failures("r.io/shop/web:1", "r.io", 1), server)


async def test_a_token_for_a_name_and_password() -> None:
    server = Server()
    shown = authorization(server, Credentials("me", "secret"))
    assert await shown.value() == ""
    assert await shown.answer([BEARER], "")
    assert await shown.value() == "Bearer 1"
    expected = {"scope": "repository:shop/web:pull", "service": "s", "account": "me"}
    assert server.asked == [("https://auth/token", expected, {"Authorization": "Basic bWU6c2VjcmV0"}, False)]


async def test_a_token_for_a_token_is_posted() -> None:
    server = Server()
    shown = authorization(server, Credentials("me", "", "long"))
    assert await shown.answer([BASIC, BEARER], "")
    (_, parameters, headers, posted) = server.asked[0]
    assert (parameters["grant_type"], parameters["refresh_token"], headers, posted) == (
        "refresh_token",
        "long",
        {},
        True,
    )


async def test_what_is_to_be_done_is_said_from_the_first_token_on() -> None:
    server = Server()
    scopes = ["repository:shop/web:pull,push", "repository:shop/base:pull"]
    failures = Failures("r.io/shop/web:1", "r.io", 1)
    shown = Authorization("shop/web", None, failures, server, scopes)
    asked = Challenge("bearer", {**BEARER.parameters, "scope": "repository:shop/web:pull"})
    assert await shown.answer([asked], "")
    assert server.asked[0][1]["scope"] == " ".join(scopes)


async def test_who_only_shows_credentials_asks_for_nothing() -> None:
    server = Server()
    shown = Authorization("", Credentials("me", "secret"), Failures("", "r.io", 1), server)
    assert await shown.answer([BEARER], "")
    assert "scope" not in server.asked[0][1]


async def test_one_renews_it_for_all() -> None:
    server = Server()
    shown = authorization(server)
    await shown.answer([BEARER], "")
    renewed = await asyncio.gather(*(shown.answer([BEARER], "Bearer 1") for _ in range(5)))
    assert renewed == [True] * 5
    assert await shown.value() == "Bearer 2"
    assert len(server.asked) == 2


async def test_it_is_renewed_before_it_runs_out() -> None:
    server = Server(0.001)
    shown = authorization(server)
    await shown.answer([BEARER], "")
    await asyncio.sleep(0.002)
    assert await shown.value() == "Bearer 2"


async def test_what_was_refused_is_not_shown_again() -> None:
    shown = authorization(Server(), Credentials("me", "wrong"))
    assert await shown.answer([BASIC], "")
    assert not await shown.answer([BASIC], await shown.value())
    assert not await authorization(Server()).answer([BASIC], "")


async def test_a_server_of_tokens_that_gives_none() -> None:
    server = Server()
    server.status = 401
    with pytest.raises(PullRefused, match=r"registry r.io refuses r.io/shop/web:1: status 401 \(unauthorized\)"):
        await authorization(server).answer([BEARER], "")
