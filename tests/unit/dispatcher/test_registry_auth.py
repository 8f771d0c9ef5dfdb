"""Registry credentials from helpers on the manager: fresh, asked for once, for tasks of the node only."""

import asyncio
import base64
import json
import os
from pathlib import Path

import pytest

from flota.manager.dispatcher.registry_auth import Helpers
from flota.rpc.errors import Unavailable

IMAGE = "registry.test:5000/shop/web:1"
SCRIPT = """#!/bin/sh
read host
echo called >>"$0.calls"
{body}
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "docker-credential-cloud"


def write(helper: Path, body: str) -> None:
    helper.write_text(SCRIPT.format(body=body))
    helper.chmod(0o755)


def calls(helper: Path) -> int:
    return len(helper.with_name(f"{helper.name}.calls").read_text().split())


def decoded(auth: str) -> dict[str, str]:
    document: dict[str, str] = json.loads(base64.urlsafe_b64decode(auth))
    return document


async def test_a_helper_is_asked_once_for_many(helper: Path) -> None:
    write(helper, """echo "{\\"Username\\": \\"me\\", \\"Secret\\": \\"for $host\\"}" """)
    helpers = Helpers({"registry.test:5000": "cloud"})
    answers = await asyncio.gather(*(helpers.credentials(IMAGE) for _ in range(5)))
    assert len(set(answers)) == 1
    assert decoded(answers[0]) == {
        "username": "me",
        "password": "for registry.test:5000",
        "serveraddress": "registry.test:5000",
    }
    assert calls(helper) == 1
    assert await helpers.credentials("busybox") == ""
    assert await helpers.credentials("NO IMAGE") == ""
    await helpers.close()


async def test_tokens_are_tokens(helper: Path) -> None:
    write(helper, """echo '{"Username": "<token>", "Secret": "t"}' """)
    helpers = Helpers({"registry.test:5000": "cloud"})
    assert decoded(await helpers.credentials(IMAGE))["identitytoken"] == "t"
    await helpers.close()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo secret; exit 3", r"credential helper docker-credential-cloud failed \(exit code 3\)"),
        ("echo secret", "credential helper docker-credential-cloud gave no JSON with Username and Secret"),
    ],
)
async def test_a_helper_that_fails_is_named_and_asked_again(helper: Path, body: str, why: str) -> None:
    write(helper, body)
    helpers = Helpers({"registry.test:5000": "cloud"})
    with pytest.raises(Unavailable, match=why) as caught:
        await helpers.credentials(IMAGE)
    assert "secret" not in str(caught.value)
    write(helper, """echo '{"Username": "me", "Secret": "s"}' """)
    assert decoded(await helpers.credentials(IMAGE))["password"] == "s"
    await helpers.close()


async def test_a_helper_that_is_not_there() -> None:
    helpers = Helpers({"registry.test:5000": "nowhere"})
    with pytest.raises(Unavailable, match="docker-credential-nowhere of this manager: No such file"):
        await helpers.credentials(IMAGE)
    await helpers.close()
