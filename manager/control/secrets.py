"""Secrets: create, look, label, remove. Their content does not change; a new content is a new secret."""

from typing import Any

from flota.manager.control.base import ControlBase, check_version
from flota.manager.control.lookup import find, matching
from flota.manager.control.names import check_annotations, check_object_name, check_template_driver
from flota.manager.control.shown import shown_secret
from flota.manager.control.usage import check_unused
from flota.manager.store import Transaction
from flota.rpc.errors import AlreadyExists, InvalidArgument, NotFound
from flota.v1.control_pb2 import (
    CreateSecretRequest,
    CreateSecretResponse,
    GetSecretRequest,
    GetSecretResponse,
    ListSecretsRequest,
    ListSecretsResponse,
    RemoveSecretRequest,
    RemoveSecretResponse,
    UpdateSecretRequest,
    UpdateSecretResponse,
)
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Secret
from flota.v1.specs_pb2 import SecretSpec

# SwarmKit's limit: less than this.
MAX_BYTES = 500 << 10


class Secrets(ControlBase):
    """The calls about secrets. Their data is never in an answer."""

    async def GetSecret(self, request: GetSecretRequest, context: Any) -> GetSecretResponse:
        """One secret by id or name."""
        store = await self._fresh()
        return GetSecretResponse(secret=shown_secret(find(store.secrets, "secret", request.secret_id)))

    async def ListSecrets(self, request: ListSecretsRequest, context: Any) -> ListSecretsResponse:
        """All secrets that fulfil the filters."""
        store = await self._fresh()
        return ListSecretsResponse(secrets=map(shown_secret, matching(store.secrets, request.filters)))

    async def CreateSecret(self, request: CreateSecretRequest, context: Any) -> CreateSecretResponse:
        """A new secret. Raises InvalidArgument, AlreadyExists."""
        if not request.HasField("spec"):
            raise InvalidArgument("the request has no secret spec")
        check_secret(request.spec)
        id = new_id(self._rng)

        def change(tx: Transaction) -> None:
            name = request.spec.annotations.name
            holder = tx.secrets.by_name(name)
            if holder is not None:
                raise AlreadyExists(f"secret name {name!r} is taken by secret {holder.id}")
            tx.create(Secret(id=id, spec=request.spec))

        await self._commit(change)
        created = self._store.secrets.get(id)
        assert created is not None
        return CreateSecretResponse(secret=shown_secret(created))

    async def UpdateSecret(self, request: UpdateSecretRequest, context: Any) -> UpdateSecretResponse:
        """Other labels. Raises OutOfSequence, NotFound, InvalidArgument (anything else is to change)."""
        if not request.HasField("spec"):
            raise InvalidArgument("the request has no secret spec")

        def change(tx: Transaction) -> str:
            stored = find(tx.secrets, "secret", request.secret_id)
            name = stored.spec.annotations.name
            check_version(f"secret {name}", request.version, stored.meta.version)
            asked = request.spec
            if asked.annotations.name not in ("", name) or (asked.data and asked.data != stored.spec.data):
                raise InvalidArgument(f"secret {name}: only labels can change; a new content is a new secret")
            changed = Secret()
            changed.CopyFrom(stored)
            changed.spec.annotations.labels.clear()
            changed.spec.annotations.labels.update(asked.annotations.labels)
            check_annotations(changed.spec.annotations)
            if changed != stored:
                tx.update(changed)
            return stored.id

        updated = self._store.secrets.get(await self._commit(change))
        if updated is None:
            raise NotFound(f"secret {request.secret_id} not found")
        return UpdateSecretResponse(secret=shown_secret(updated))

    async def RemoveSecret(self, request: RemoveSecretRequest, context: Any) -> RemoveSecretResponse:
        """Forget a secret that no service uses. Raises NotFound, FailedPrecondition that names the users."""

        def change(tx: Transaction) -> None:
            secret = find(tx.secrets, "secret", request.secret_id)
            users = tx.services.by("secret", secret.id)
            check_unused("secret", secret.spec.annotations.name, secret.id, users, self._claims)
            tx.remove(secret)

        await self._commit(change)
        return RemoveSecretResponse()


def check_secret(spec: SecretSpec) -> None:
    """Name, labels, size, template driver. Raises InvalidArgument."""
    check_object_name("secret", spec.annotations.name)
    check_annotations(spec.annotations)
    if not 0 < len(spec.data) < MAX_BYTES:
        raise InvalidArgument(
            f"invalid size of secret {spec.annotations.name!r}: it has {len(spec.data):,} bytes, "
            f"1 to {MAX_BYTES - 1:,} are allowed"
        )
    check_template_driver("secret", spec.template_driver)
