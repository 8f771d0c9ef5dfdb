"""Registry credentials that run out, made anew by helpers on the managers (moby#36126).

What a person gave with --with-registry-auth is what it was that day; tokens of cloud registries last for hours. A
manager that was told `--credential-helper HOST=NAME` asks docker-credential-NAME (the protocol of Docker's helpers)
when a node has to pull from HOST, and remembers the answer for a moment. The helper has to be on every manager: the
leader asks. Credentials are never stored, and go to nodes only for images of their own tasks.
"""

import asyncio
import base64
import json
from collections.abc import Mapping

import structlog

from flota.rpc.errors import Unavailable
from flota.v1.image_references import ImageReference

_log = structlog.get_logger("dispatcher")
# Seconds for a helper, and for which its answer is used again: many nodes pull at once.
_LIMIT = 30.0
_FRESH = 60.0
_LONGEST = 1 << 16
# How helpers say that the secret is a token.
_TOKEN = "<token>"


class Helpers:
    """`names` maps registries, host[:port], to helpers: NAME of docker-credential-NAME."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)
        self._answers: dict[str, tuple[float, asyncio.Task[str]]] = {}

    async def credentials(self, image: str) -> str:
        """X-Registry-Auth for the registry of an image; empty without a helper. Raises Unavailable."""
        try:
            host = ImageReference.parse(image).host
        except ValueError:
            return ""
        helper = self._names.get(host)
        if helper is None:
            return ""
        now = asyncio.get_running_loop().time()
        at, answer = self._answers.get(host, (0.0, None))
        if answer is None or now - at > _FRESH or (answer.done() and answer.exception() is not None):
            answer = asyncio.create_task(_ask(helper, host), name=f"credential helper {helper}")
            self._answers[host] = now, answer
        # One who gives up does not end it for the others.
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """End the helpers that still run."""
        tasks = [task for _, task in self._answers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._answers.clear()


async def _ask(helper: str, host: str) -> str:
    program = f"docker-credential-{helper}"
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LONGEST
        )
    except OSError as error:
        raise Unavailable(f"credential helper {program} of this manager: {error.strerror}") from None
    try:
        async with asyncio.timeout(_LIMIT):
            output, _ = await process.communicate(host.encode())
    except TimeoutError:
        raise Unavailable(f"credential helper {program} did not answer within {_LIMIT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        # What it printed may be a secret.
        raise Unavailable(f"credential helper {program} failed (exit code {process.returncode})")
    return registry_auth(output, program, host)


def registry_auth(answer: bytes, program: str, host: str) -> str:
    """A helper's answer in the form of X-Registry-Auth. Raises Unavailable."""
    try:
        document = json.loads(answer)
        user, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"credential helper {program} gave no JSON with Username and Secret") from None
    given = {"identitytoken": secret} if user == _TOKEN else {"username": user, "password": secret}
    return base64.urlsafe_b64encode(json.dumps(given | {"serveraddress": host}).encode()).decode()
