"""Configs: create, look, label, remove. Their content does not change; a new content is a new config."""

from typing import Any

from flota.manager.control.base import ControlBase, check_version
from flota.manager.control.lookup import find, matching
from flota.manager.control.names import check_annotations, check_object_name, check_template_driver
from flota.manager.control.usage import check_unused
from flota.manager.store import Transaction
from flota.rpc.errors import AlreadyExists, InvalidArgument, NotFound
from flota.v1.control_pb2 import (
    CreateConfigRequest,
    CreateConfigResponse,
    GetConfigRequest,
    GetConfigResponse,
    ListConfigsRequest,
    ListConfigsResponse,
    RemoveConfigRequest,
    RemoveConfigResponse,
    UpdateConfigRequest,
    UpdateConfigResponse,
)
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Config
from flota.v1.specs_pb2 import ConfigSpec

# SwarmKit's limit: less than this.
MAX_BYTES = 1000 << 10


class Configs(ControlBase):
    """The calls about configs."""

    async def GetConfig(self, request: GetConfigRequest, context: Any) -> GetConfigResponse:
        """One config by id or name."""
        store = await self._fresh()
        return GetConfigResponse(config=find(store.configs, "config", request.config_id))

    async def ListConfigs(self, request: ListConfigsRequest, context: Any) -> ListConfigsResponse:
        """All configs that fulfil the filters."""
        store = await self._fresh()
        return ListConfigsResponse(configs=matching(store.configs, request.filters))

    async def CreateConfig(self, request: CreateConfigRequest, context: Any) -> CreateConfigResponse:
        """A new config. Raises InvalidArgument, AlreadyExists."""
        if not request.HasField("spec"):
            raise InvalidArgument("the request has no config spec")
        check_config(request.spec)
        id = new_id(self._rng)

        def change(tx: Transaction) -> None:
            name = request.spec.annotations.name
            holder = tx.configs.by_name(name)
            if holder is not None:
                raise AlreadyExists(f"config name {name!r} is taken by config {holder.id}")
            tx.create(Config(id=id, spec=request.spec))

        await self._commit(change)
        created = self._store.configs.get(id)
        assert created is not None
        return CreateConfigResponse(config=created)

    async def UpdateConfig(self, request: UpdateConfigRequest, context: Any) -> UpdateConfigResponse:
        """Other labels. Raises OutOfSequence, NotFound, InvalidArgument (anything else is to change)."""
        if not request.HasField("spec"):
            raise InvalidArgument("the request has no config spec")

        def change(tx: Transaction) -> str:
            stored = find(tx.configs, "config", request.config_id)
            name = stored.spec.annotations.name
            check_version(f"config {name}", request.version, stored.meta.version)
            asked = request.spec
            if asked.annotations.name not in ("", name) or (asked.data and asked.data != stored.spec.data):
                raise InvalidArgument(f"config {name}: only labels can change; a new content is a new config")
            changed = Config()
            changed.CopyFrom(stored)
            changed.spec.annotations.labels.clear()
            changed.spec.annotations.labels.update(asked.annotations.labels)
            check_annotations(changed.spec.annotations)
            if changed != stored:
                tx.update(changed)
            return stored.id

        updated = self._store.configs.get(await self._commit(change))
        if updated is None:
            raise NotFound(f"config {request.config_id} not found")
        return UpdateConfigResponse(config=updated)

    async def RemoveConfig(self, request: RemoveConfigRequest, context: Any) -> RemoveConfigResponse:
        """Forget a config that no service uses. Raises NotFound, FailedPrecondition that names the users."""

        def change(tx: Transaction) -> None:
            config = find(tx.configs, "config", request.config_id)
            users = tx.services.by("config", config.id)
            check_unused("config", config.spec.annotations.name, config.id, users, self._claims)
            tx.remove(config)

        await self._commit(change)
        return RemoveConfigResponse()


def check_config(spec: ConfigSpec) -> None:
    """Name, labels, size, template driver. Raises InvalidArgument."""
    check_object_name("config", spec.annotations.name)
    check_annotations(spec.annotations)
    if not 0 < len(spec.data) < MAX_BYTES:
        raise InvalidArgument(
            f"invalid size of config {spec.annotations.name!r}: it has {len(spec.data):,} bytes, "
            f"1 to {MAX_BYTES - 1:,} are allowed"
        )
    check_template_driver("config", spec.template_driver)
