"""What goes wrong at a registry, in one line for people."""

import http.client
import json
import os
import ssl
from contextlib import suppress
from typing import Any

from flota.rpc.errors import FlotaError
from flota.worker.images.errors import ImageNotFound, PullRefused, RegistryUnavailable, RegistryUnreachable

_NOT_THERE = {"manifest_unknown", "name_unknown", "name_invalid", "not_found"}
# "Later", or a server between us and the registry that has trouble.
_PASSING = {408, 429, 500, 502, 503, 504}
_LONGEST = 300
# What registries of distribution say of all that went wrong with their own files, and of one thing that stays wrong.
_NOTHING_SAID, _FULL = "unknown error", "no space left on device"
# How OpenSSL calls an answer that is no TLS.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}


class NoWay(Exception):
    """A server cannot be reached. The message is for people."""


class Interrupted(RegistryUnavailable):
    """It may work when it is tried again. `wait` are seconds that the registry asks for; `silent`: there was no answer
    for a long time."""

    def __init__(self, message: str, *, wait: float = 0.0, silent: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.silent = silent


class Failures:
    """Of what is asked of `host` about an image; `limit` are seconds without a byte after which it is given up, `doing`
    is what fails then (pulling IMAGE from, if it is not said)."""

    def __init__(self, image: str, host: str, limit: float, doing: str = "") -> None:
        self._image = image
        self._host = host
        self._limit = limit
        self._doing = doing or f"pulling {image} from"

    def refusal(self, said: str) -> PullRefused:
        """It does not give the image to us."""
        message = (
            f"registry {self._host} refuses {self._image}: {said} (credentials: flota login, --with-registry-auth)"
        )
        return PullRefused(message, said)

    def other(self, said: str) -> RegistryUnavailable:
        """It does not do what registries do."""
        return RegistryUnavailable(self._failed(said))

    def broken(self, said: str) -> Interrupted:
        """It stopped in the middle."""
        return Interrupted(self._failed(said))

    def answer(self, status: int, body: bytes, *, wait: float = 0.0, manifest: bool = False) -> FlotaError:
        """An answer that is none of those that were hoped for."""
        code, said = _said(status, body)
        if status in (401, 403):
            return self.refusal(said)
        if manifest and (status == 404 or code in _NOT_THERE):
            return ImageNotFound(f"no such image: {self._image} (registry {self._host} has none of that name)")
        if status in _PASSING and _FULL not in said:
            return Interrupted(self._failed(said), wait=wait)
        return self.other(said)

    def trouble(self, error: OSError | http.client.HTTPException | NoWay) -> FlotaError:
        """No answer at all, or half of one."""
        if isinstance(error, NoWay):
            return RegistryUnreachable(f"registry {self._host} cannot be reached: {error}")
        if isinstance(error, TimeoutError):
            return Interrupted(f"registry {self._host} sends nothing (for {self._limit:g} s)", silent=True)
        if isinstance(error, ssl.SSLCertVerificationError):
            return self.other(self._certificate(error.verify_message))
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | http.client.IncompleteRead):
            return self.broken("the connection ended too early")
        if isinstance(error, ssl.SSLError):
            if error.reason in _NO_TLS:
                said = "it speaks plain HTTP, which is only trusted if the daemon's --insecure-registry names it"
                return self.other(said)
            return self.other(f"TLS with it fails: {error.reason or error}")
        if isinstance(error, http.client.RemoteDisconnected):
            return self.broken("the connection ended too early")
        if isinstance(error, OSError):
            return self.broken((os.strerror(error.errno) if error.errno else str(error)).lower())
        return self.broken(f"its answer is none of HTTP's ({error!r})"[:_LONGEST])

    def _certificate(self, said: str) -> str:
        return f"its certificate is not trusted: {said} (is its authority in /etc/docker/certs.d/{self._host}/ca.crt?)"

    def _failed(self, said: str) -> str:
        return f"{self._doing} registry {self._host} failed: {said}"


def _said(status: int, body: bytes) -> tuple[str, str]:
    """A code, and what people are told: as registries write it, or others that stand before them."""
    with suppress(ValueError):
        document = json.loads(body)
        first = _first(document)
        code = str(first.get("code") or "").lower()
        keys = ("message", "details", "error_description", "error", "detail")
        message = next((one for key in keys if isinstance(one := first.get(key), str) and one), "")
        if message == _NOTHING_SAID and isinstance(detail := first.get("detail"), str) and detail:
            message = detail
        if code or message:
            return code, ": ".join(one for one in (code, message[:_LONGEST]) if one)
    words = {401: "unauthorized", 403: "forbidden", 404: "not found", 429: "too many requests"}
    return "", f"status {status}" + (f" ({words[status]})" if status in words else "")


def _first(document: Any) -> dict[str, Any]:
    errors = document.get("errors") if isinstance(document, dict) else None
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return errors[0]
    return document if isinstance(document, dict) else {}
