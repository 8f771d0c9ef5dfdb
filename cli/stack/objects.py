"""Brings about what a stack's services use: networks, secrets and configs, before the services themselves.

Each step is idempotent. Networks stay as they are; of secrets and configs only labels change, a new content is a new
version (flota.stacks.versions). What somebody else made in between is taken for ours when it has the stack's label.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from flota.cli.failures import CommandFailed
from flota.cli.stack.fingerprint import LABEL, fingerprint, same_secret
from flota.cli.stack.inventory import Inventory, inventory
from flota.stacks.translation.adapting import network_differences
from flota.stacks.versions import OBJECT, Chosen, choose_config, choose_secret, labels_wanted
from flota.v1.objects_pb2 import Config, Secret
from flota.v1.specs_pb2 import ConfigSpec, SecretSpec

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.stacks.translation.stack import Stack
    from flota.v1.specs_pb2 import NetworkSpec

_ATTEMPTS = 10


class Objects:
    """The objects of one deploy. `there` is what the stack has, as new as it was last read."""

    def __init__(
        self,
        session: Session,
        stack: Stack,
        there: Inventory,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        done: Counter[str],
    ) -> None:
        """What is done is counted in `done`, under "secret created" and the like."""
        self._session = session
        self._stack = stack
        self.there = there
        self._say = say
        self._warn = warn
        self._done = done

    async def run(self) -> tuple[dict[str, str], dict[str, str]]:
        """Make what is missing. Gives the names of the objects behind the names of secrets, and of configs."""
        for network in self._stack.networks:
            await self._network(network)
        secrets = {spec.annotations.name: await self._file(spec) for spec in self._stack.secrets}
        configs = {spec.annotations.name: await self._file(spec) for spec in self._stack.configs}
        return secrets, configs

    async def _network(self, spec: NetworkSpec) -> None:
        from flota.v1.control_pb2 import CreateNetworkRequest

        name = spec.annotations.name
        if name not in self.there.networks:
            self._say(f"Creating network {name}")
            request = CreateNetworkRequest(spec=spec)
            if await self._created(self._session.control.CreateNetwork(request), "network", name):
                self._done["network created"] += 1
                return
        differing = network_differences(self.there.networks[name].spec, spec)
        if differing:
            self._warn(
                f"network {name} stays as it is, although the file says something else about {', '.join(differing)}: "
                "networks do not change (remove the stack, then deploy it anew)"
            )

    async def _file(self, spec: SecretSpec | ConfigSpec) -> str:
        """The name of the object that has the content of `spec`; one is made if there is none."""
        kind = "secret" if isinstance(spec, SecretSpec) else "config"
        for _ in range(_ATTEMPTS):
            # A secret's content is told by a slow hash.
            chosen = await asyncio.to_thread(self._choose, spec)
            if not chosen.there:
                self._tell(kind, spec.annotations.name, chosen)
                made = await asyncio.to_thread(_named, spec, chosen)
                if await self._created(self._create(made), kind, chosen.name):
                    self._done[f"{kind} rotated" if chosen.rotates else f"{kind} created"] += 1
                    return chosen.name
            elif await self._relabel(kind, spec, chosen.name):
                return chosen.name
        raise CommandFailed(f"{kind} {spec.annotations.name}: somebody else keeps changing it: try again")

    def _choose(self, spec: SecretSpec | ConfigSpec) -> Chosen:
        if isinstance(spec, SecretSpec):
            return choose_secret(spec, self.there.secrets, same_secret)
        return choose_config(spec, self.there.configs)

    def _tell(self, kind: str, name: str, chosen: Chosen) -> None:
        why = f": {name} has another content now" if chosen.rotates else ""
        self._say(f"Creating {kind} {chosen.name}{why}")

    def _create(self, spec: SecretSpec | ConfigSpec) -> Awaitable[object]:
        from flota.v1.control_pb2 import CreateConfigRequest, CreateSecretRequest

        if isinstance(spec, SecretSpec):
            return self._session.control.CreateSecret(CreateSecretRequest(spec=spec))
        return self._session.control.CreateConfig(CreateConfigRequest(spec=spec))

    async def _relabel(self, kind: str, spec: SecretSpec | ConfigSpec, name: str) -> bool:
        """Give the object `name` the labels of `spec`; False when somebody came in between."""
        import grpc

        things: Mapping[str, Secret | Config] = self.there.secrets if kind == "secret" else self.there.configs
        labels = labels_wanted(spec, things[name])
        if labels == things[name].spec.annotations.labels:
            return True
        try:
            await self._update(things[name], labels)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND):
                raise
            self.there = await inventory(self._session, self._stack.name)
            return False
        self._say(f"Updating {kind} {name}: its labels")
        self._done[f"{kind} changed"] += 1
        return True

    def _update(self, thing: Secret | Config, labels: Mapping[str, str]) -> Awaitable[object]:
        from flota.v1.control_pb2 import UpdateConfigRequest, UpdateSecretRequest
        from flota.v1.types_pb2 import Annotations

        annotations = Annotations(labels=labels)
        if isinstance(thing, Secret):
            secret = UpdateSecretRequest(
                secret_id=thing.id, version=thing.meta.version, spec=SecretSpec(annotations=annotations)
            )
            return self._session.control.UpdateSecret(secret)
        config = UpdateConfigRequest(
            config_id=thing.id, version=thing.meta.version, spec=ConfigSpec(annotations=annotations)
        )
        return self._session.control.UpdateConfig(config)

    async def _created(self, call: Awaitable[object], kind: str, name: str) -> bool:
        """True when it was made; False when another deploy of this stack was quicker. Raises when it is not ours."""
        import grpc

        try:
            await call
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
            self.there = await inventory(self._session, self._stack.name)
            things: dict[str, object] = getattr(self.there, f"{kind}s")
            if name not in things:
                raise
            return False
        return True


def _named(spec: SecretSpec | ConfigSpec, chosen: Chosen) -> SecretSpec | ConfigSpec:
    """A copy of `spec` under the name of its version, with the marks that tell versions and contents. Slow."""
    made = type(spec)()
    made.CopyFrom(spec)  # type: ignore[arg-type]  # the same type
    made.annotations.name = chosen.name
    if isinstance(spec, SecretSpec):
        made.annotations.labels[LABEL] = fingerprint(spec.data)
    if chosen.rotates:
        made.annotations.labels[OBJECT] = spec.annotations.name
    return made
