"""/secrets and /configs"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.translation import asked, shown
from flota.v1.control_pb2 import (
    CreateConfigRequest,
    CreateSecretRequest,
    GetConfigRequest,
    GetSecretRequest,
    ListConfigsRequest,
    ListSecretsRequest,
    RemoveConfigRequest,
    RemoveSecretRequest,
    UpdateConfigRequest,
    UpdateSecretRequest,
)
from flota.v1.stack_records import RECORD, is_record
from flota.v1.types_pb2 import Version

# `docker stack rm` asks with it for what it has to remove.
_STACK = "com.docker.stack.namespace"
_FILTERS = ("id", "label", "name", "names")


def _passes(thing: Any, wanted: Filters) -> bool:
    name = thing.spec.annotations.name
    return (
        wanted.starts("id", thing.id)
        and wanted.starts("name", name)
        and wanted.equals("names", name)
        and wanted.labels("label", thing.spec.annotations.labels)
    )


async def secrets(call: Call) -> web.StreamResponse:
    """All secrets that fulfil the filters, without their data."""
    wanted = call.filters(*_FILTERS)
    there = (await call.backend.control.ListSecrets(ListSecretsRequest())).secrets
    return answer([shown.secret(secret) for secret in there if _passes(secret, wanted)])


async def secret(call: Call) -> web.StreamResponse:
    """One secret, without its data."""
    return answer(shown.secret((await call.backend.control.GetSecret(GetSecretRequest(secret_id=call.name()))).secret))


async def create_secret(call: Call) -> web.StreamResponse:
    """A new secret."""
    request = CreateSecretRequest(spec=asked.secret_spec(await call.body()))
    return answer({"ID": (await call.backend.control.CreateSecret(request)).secret.id}, 201)


async def update_secret(call: Call) -> web.StreamResponse:
    """Other labels, which is all that may change of a secret."""
    request = UpdateSecretRequest(
        secret_id=call.name(),
        version=Version(index=call.object_version()),
        spec=asked.secret_spec(await call.body()),
    )
    await call.backend.control.UpdateSecret(request)
    return nothing()


async def remove_secret(call: Call) -> web.StreamResponse:
    """Forget a secret."""
    await call.backend.control.RemoveSecret(RemoveSecretRequest(secret_id=call.name()))
    return nothing(204)


async def configs(call: Call) -> web.StreamResponse:
    """All configs that fulfil the filters. Records of stacks only to who asks for them, or for all of a stack's."""
    wanted = call.filters(*_FILTERS)
    records = any(label.startswith((RECORD, _STACK)) for label in wanted.get("label"))
    there = (await call.backend.control.ListConfigs(ListConfigsRequest())).configs
    return answer([shown.config(each) for each in there if _passes(each, wanted) and (records or not is_record(each))])


async def config(call: Call) -> web.StreamResponse:
    """One config."""
    return answer(shown.config((await call.backend.control.GetConfig(GetConfigRequest(config_id=call.name()))).config))


async def create_config(call: Call) -> web.StreamResponse:
    """A new config."""
    request = CreateConfigRequest(spec=asked.config_spec(await call.body()))
    return answer({"ID": (await call.backend.control.CreateConfig(request)).config.id}, 201)


async def update_config(call: Call) -> web.StreamResponse:
    """Other labels, which is all that may change of a config."""
    request = UpdateConfigRequest(
        config_id=call.name(),
        version=Version(index=call.object_version()),
        spec=asked.config_spec(await call.body()),
    )
    await call.backend.control.UpdateConfig(request)
    return nothing()


async def remove_config(call: Call) -> web.StreamResponse:
    """Forget a config."""
    await call.backend.control.RemoveConfig(RemoveConfigRequest(config_id=call.name()))
    return nothing(204)


ROUTES: list[Route] = [
    ("GET", "/secrets", secrets),
    ("POST", "/secrets/create", create_secret),
    ("GET", "/secrets/{id}", secret),
    ("DELETE", "/secrets/{id}", remove_secret),
    ("POST", "/secrets/{id}/update", update_secret),
    ("GET", "/configs", configs),
    ("POST", "/configs/create", create_config),
    ("GET", "/configs/{id}", config),
    ("DELETE", "/configs/{id}", remove_config),
    ("POST", "/configs/{id}/update", update_config),
]
