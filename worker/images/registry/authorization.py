"""What a repository is shown with each request: a name and password, or a token that is got with them and runs out.

The protocol of tokens is distribution's (docs/spec/auth: token, oauth).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from flota.worker.images.credentials import Credentials
from flota.worker.images.registry.challenges import Challenge
from flota.worker.images.registry.failures import Failures

# Seconds for which a token lasts that says nothing of it, and before its end a new one is got.
_LASTS = 60.0
_BEFORE = 5.0
_CLIENT = "flota"

# How a server of tokens is asked: realm, parameters, headers, whether to POST. Its answer's status and body.
Ask = Callable[[str, Mapping[str, str], Mapping[str, str], bool], Awaitable[tuple[int, bytes]]]


class Authorization:
    """For one repository. `scopes` are what is to be done, from the first token on; without them it is what the
    registry asks for, request by request. `ask` raises RegistryUnavailable."""

    def __init__(
        self, path: str, credentials: Credentials | None, failures: Failures, ask: Ask, scopes: Sequence[str] = ()
    ) -> None:
        self._usual = f"repository:{path}:pull" if path else ""
        self._scopes = tuple(scopes)
        self._credentials = credentials
        self._failures = failures
        self._ask = ask
        self._value = ""
        self._challenge: Challenge | None = None
        self._renew_at = 0.0
        self._changing = asyncio.Lock()

    async def value(self) -> str:
        """The header Authorization; empty as long as nobody asked for one. Raises PullRefused, RegistryUnavailable."""
        async with self._changing:
            if self._challenge is not None and asyncio.get_running_loop().time() >= self._renew_at:
                await self._get_token(self._challenge)
            return self._value

    async def answer(self, challenges: Sequence[Challenge], used: str) -> bool:
        """A request with the header `used` was not let in: whether there is another one now.

        Raises PullRefused, RegistryUnavailable.
        """
        async with self._changing:
            if self._value != used:
                # Somebody else has asked meanwhile.
                return True
            for one in challenges:
                if one.scheme == "bearer" and one.parameters.get("realm"):
                    await self._get_token(one)
                    return self._value != used
                if one.scheme == "basic" and self._credentials is not None and not self._credentials.identity_token:
                    self._value = f"Basic {self._credentials.basic}"
                    return self._value != used
            return False

    async def _get_token(self, challenge: Challenge) -> None:
        known, asked = self._credentials, challenge.parameters
        scope = " ".join(self._scopes) or asked.get("scope") or self._usual
        parameters = {"scope": scope} if scope else {}
        if asked.get("service"):
            parameters["service"] = asked["service"]
        headers: dict[str, str] = {}
        exchange = known is not None and bool(known.identity_token)
        if known is not None and exchange:
            parameters |= {"grant_type": "refresh_token", "refresh_token": known.identity_token, "client_id": _CLIENT}
        elif known is not None:
            parameters["account"] = known.user
            headers["Authorization"] = f"Basic {known.basic}"
        status, body = await self._ask(asked["realm"], parameters, headers, exchange)
        if status != 200:
            raise self._failures.answer(401 if status in (400, 401, 403, 404) else status, body)
        document = _document(body)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token:
            raise self._failures.other("the server of tokens that it names gives none")
        lasts = document.get("expires_in")
        seconds = float(lasts) if isinstance(lasts, int | float) and lasts > 0 else _LASTS
        self._renew_at = asyncio.get_running_loop().time() + seconds - min(_BEFORE, seconds / 4)
        self._challenge = challenge
        self._value = f"Bearer {token}"


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
