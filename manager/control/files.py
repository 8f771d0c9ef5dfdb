"""Secrets and configs: create, look, label, remove. Their content does not change; a new content is a new object.

The two differ in how large they may be, and in that a secret's content is in no answer; all rules are one.
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flota.manager.control.base import ControlBase, check_version
from flota.manager.control.lookup import find, matching
from flota.manager.control.names import check_annotations, check_object_name, check_template_driver
from flota.manager.control.shown import shown_secret
from flota.manager.control.usage import check_unused
from flota.manager.store import Reader, Transaction, View
from flota.rpc.errors import AlreadyExists, InvalidArgument, NotFound
from flota.v1 import control_pb2 as api
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Config, Secret
from flota.v1.specs_pb2 import ConfigSpec, SecretSpec

M = TypeVar("M", Secret, Config)


@dataclass(frozen=True)
class Kind(Generic[M]):
    """What secrets and configs do not have in common."""

    word: str
    make: type[M]
    # Content must have fewer bytes; SwarmKit's limits.
    too_large: int

    def table(self, store: Any) -> Reader[M]:
        """The objects of this kind in a store."""
        table: Reader[M] = getattr(store, f"{self.word}s")
        return table

    def view(self, tx: Transaction) -> View[M]:
        """The objects of this kind in a transaction."""
        view: View[M] = getattr(tx, f"{self.word}s")
        return view


SECRET = Kind("secret", Secret, 500 << 10)
CONFIG = Kind("config", Config, 1000 << 10)


class Files(ControlBase):
    """The calls about secrets and configs. The data of secrets is never in an answer."""

    async def GetSecret(self, request: api.GetSecretRequest, context: Any) -> api.GetSecretResponse:
        """One secret by id or name."""
        found = find((await self._fresh()).secrets, "secret", request.secret_id)
        return api.GetSecretResponse(secret=shown_secret(found))

    async def GetConfig(self, request: api.GetConfigRequest, context: Any) -> api.GetConfigResponse:
        """One config by id or name."""
        return api.GetConfigResponse(config=find((await self._fresh()).configs, "config", request.config_id))

    async def ListSecrets(self, request: api.ListSecretsRequest, context: Any) -> api.ListSecretsResponse:
        """All secrets that fulfil the filters."""
        found = matching((await self._fresh()).secrets, request.filters)
        return api.ListSecretsResponse(secrets=map(shown_secret, found))

    async def ListConfigs(self, request: api.ListConfigsRequest, context: Any) -> api.ListConfigsResponse:
        """All configs that fulfil the filters."""
        return api.ListConfigsResponse(configs=matching((await self._fresh()).configs, request.filters))

    async def CreateSecret(self, request: api.CreateSecretRequest, context: Any) -> api.CreateSecretResponse:
        """A new secret. Raises InvalidArgument, AlreadyExists."""
        return api.CreateSecretResponse(secret=shown_secret(await self._create(SECRET, request)))

    async def CreateConfig(self, request: api.CreateConfigRequest, context: Any) -> api.CreateConfigResponse:
        """A new config. Raises InvalidArgument, AlreadyExists."""
        return api.CreateConfigResponse(config=await self._create(CONFIG, request))

    async def UpdateSecret(self, request: api.UpdateSecretRequest, context: Any) -> api.UpdateSecretResponse:
        """Other labels. Raises OutOfSequence, NotFound, InvalidArgument (anything else is to change)."""
        updated = await self._relabel(SECRET, request.secret_id, request)
        return api.UpdateSecretResponse(secret=shown_secret(updated))

    async def UpdateConfig(self, request: api.UpdateConfigRequest, context: Any) -> api.UpdateConfigResponse:
        """Other labels. Raises OutOfSequence, NotFound, InvalidArgument (anything else is to change)."""
        return api.UpdateConfigResponse(config=await self._relabel(CONFIG, request.config_id, request))

    async def RemoveSecret(self, request: api.RemoveSecretRequest, context: Any) -> api.RemoveSecretResponse:
        """Forget a secret that no service uses. Raises NotFound, FailedPrecondition that names the users."""
        await self._remove(SECRET, request.secret_id)
        return api.RemoveSecretResponse()

    async def RemoveConfig(self, request: api.RemoveConfigRequest, context: Any) -> api.RemoveConfigResponse:
        """Forget a config that no service uses. Raises NotFound, FailedPrecondition that names the users."""
        await self._remove(CONFIG, request.config_id)
        return api.RemoveConfigResponse()

    async def _create(self, kind: Kind[M], request: Any) -> M:
        spec = _asked(kind, request)
        check_file_spec(kind, spec)
        id = new_id(self._rng)

        def change(tx: Transaction) -> None:
            name = spec.annotations.name
            holder = kind.view(tx).by_name(name)
            if holder is not None:
                raise AlreadyExists(f"{kind.word} name {name!r} is taken by {kind.word} {holder.id}")
            made = kind.make(id=id)
            made.spec.MergeFrom(spec)
            tx.create(made)

        await self._commit(change)
        created = kind.table(self._store).get(id)
        assert created is not None
        return created

    async def _relabel(self, kind: Kind[M], reference: str, request: Any) -> M:
        asked = _asked(kind, request)

        def change(tx: Transaction) -> str:
            stored = find(kind.view(tx), kind.word, reference)
            name = stored.spec.annotations.name
            check_version(f"{kind.word} {name}", request.version, stored.meta.version)
            if asked.annotations.name not in ("", name) or (asked.data and asked.data != stored.spec.data):
                raise InvalidArgument(f"{kind.word} {name}: only labels can change; a new content is a new {kind.word}")
            changed = kind.make()
            changed.CopyFrom(stored)
            changed.spec.annotations.labels.clear()
            changed.spec.annotations.labels.update(asked.annotations.labels)
            check_annotations(changed.spec.annotations)
            if changed != stored:
                tx.update(changed)
            return stored.id

        updated = kind.table(self._store).get(await self._commit(change))
        if updated is None:
            raise NotFound(f"{kind.word} {reference} not found")
        return updated

    async def _remove(self, kind: Kind[M], reference: str) -> None:
        def change(tx: Transaction) -> None:
            found = find(kind.view(tx), kind.word, reference)
            users = tx.services.by(kind.word, found.id)
            check_unused(kind.word, found.spec.annotations.name, found.id, users, self._claims)
            tx.remove(found)

        await self._commit(change)


def _asked(kind: Kind[M], request: Any) -> Any:
    if not request.HasField("spec"):
        raise InvalidArgument(f"the request has no {kind.word} spec")
    return request.spec


def check_file_spec(kind: Kind[M], spec: SecretSpec | ConfigSpec) -> None:
    """Name, labels, size, template driver. Raises InvalidArgument."""
    check_object_name(kind.word, spec.annotations.name)
    check_annotations(spec.annotations)
    if not 0 < len(spec.data) < kind.too_large:
        raise InvalidArgument(
            f"invalid size of {kind.word} {spec.annotations.name!r}: it has {len(spec.data):,} bytes, "
            f"1 to {kind.too_large - 1:,} are allowed"
        )
    check_template_driver(kind.word, spec.template_driver)
