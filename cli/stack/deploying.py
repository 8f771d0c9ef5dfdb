"""Brings a stack about: networks, secrets and configs, then the services in their order, then what is no longer wanted.

Each step is idempotent and names the version it rests on: deploying the same again changes nothing, and of two deploys
at once each reads again and goes on where the other got in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import click

from flota.cli import lookup
from flota.cli.failures import CommandFailed
from flota.cli.stack.fingerprint import LABEL, fingerprint, matches
from flota.cli.stack.inventory import Inventory, inventory, tasks_of
from flota.stacks.translation.adapting import adapted, network_differences

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.stacks.translation.stack import Stack
    from flota.v1.objects_pb2 import Service
    from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec

T = TypeVar("T")
_ATTEMPTS = 10


class Deployment:
    """One deploy of one stack."""

    def __init__(
        self,
        session: Session,
        stack: Stack,
        *,
        with_registry_auth: bool = False,
        resolve_image: str = "always",
        detach: bool = False,
        quiet: bool = False,
    ) -> None:
        self._session = session
        self._stack = stack
        self._with_registry_auth = with_registry_auth
        self._resolve_image = resolve_image
        self._detach = detach
        self._quiet = quiet
        self._there = Inventory({}, {}, {}, {})
        # Services as they are after this deploy, and those that were only now made or changed.
        self._deployed: dict[str, Service] = {}
        self._changed: set[str] = set()
        self._first: set[str] = set()

    async def run(self, prune: bool) -> None:
        """Deploy, and wait unless detached. Raises CommandFailed."""
        self._there = await inventory(self._session, self._stack.name)
        await self._check_external()
        if prune:
            await self._prune_services()
        for network in self._stack.networks:
            await self._network(network)
        for secret in self._stack.secrets:
            await self._secret(secret)
        for config in self._stack.configs:
            await self._config(config)
        await self._services()
        if not self._detach:
            await self._wait()
        if prune:
            await self._prune_objects()

    def _say(self, text: str) -> None:
        click.echo(text)

    # --- what must be there ---------------------------------------------------------------------------------------

    async def _check_external(self) -> None:
        finders: dict[str, Callable[[Session, str], Awaitable[object]]] = {
            "network": lookup.network,
            "secret": lookup.secret,
            "config": lookup.config,
        }
        hints = {"network": "flota network create NAME", "secret": "flota secret create NAME FILE"}
        hints["config"] = "flota config create NAME FILE"
        for kind, name in self._stack.external:
            try:
                await finders[kind](self._session, name)
            except lookup.Missing:
                hint = hints[kind].replace("NAME", name)
                raise CommandFailed(
                    f"{kind} {name!r} is declared as external, but there is none: make it first ({hint})"
                ) from None

    # --- networks, secrets, configs -------------------------------------------------------------------------------

    async def _network(self, spec: NetworkSpec) -> None:
        from flota.v1.control_pb2 import CreateNetworkRequest

        name = spec.annotations.name
        if name not in self._there.networks:
            self._say(f"Creating network {name}")
            request = CreateNetworkRequest(spec=spec)
            if await self._created(self._session.control.CreateNetwork(request), "network", name):
                return
        differing = network_differences(self._there.networks[name].spec, spec)
        if differing:
            self._warn(
                f"network {name} stays as it is, although the file says something else about {', '.join(differing)}: "
                "networks do not change (remove the stack, then deploy it anew)"
            )

    async def _secret(self, spec: SecretSpec) -> None:
        from flota.v1.control_pb2 import CreateSecretRequest

        name = spec.annotations.name
        if name not in self._there.secrets:
            self._say(f"Creating secret {name}")
            spec.annotations.labels[LABEL] = await asyncio.to_thread(fingerprint, spec.data)
            request = CreateSecretRequest(spec=spec)
            if await self._created(self._session.control.CreateSecret(request), "secret", name):
                return
        mark = self._there.secrets[name].spec.annotations.labels.get(LABEL, "")
        if mark and not await asyncio.to_thread(matches, mark, spec.data):
            raise CommandFailed(_other_content("secret", name))

    async def _config(self, spec: ConfigSpec) -> None:
        from flota.v1.control_pb2 import CreateConfigRequest

        name = spec.annotations.name
        if name not in self._there.configs:
            self._say(f"Creating config {name}")
            request = CreateConfigRequest(spec=spec)
            if await self._created(self._session.control.CreateConfig(request), "config", name):
                return
        if self._there.configs[name].spec.data != spec.data:
            raise CommandFailed(_other_content("config", name))

    async def _created(self, call: Awaitable[object], kind: str, name: str) -> bool:
        """True when it was made; False when another deploy of this stack was quicker. Raises when it is not ours."""
        import grpc

        try:
            await call
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
            self._there = await inventory(self._session, self._stack.name)
            things: dict[str, object] = getattr(self._there, f"{kind}s")
            if name not in things:
                raise
            return False
        return True

    # --- services -------------------------------------------------------------------------------------------------

    async def _services(self) -> None:
        for spec in self._stack.services:
            if spec.annotations.name not in self._there.services and not self._detach:
                await self._wait_for_dependencies(spec)
            await self._service(spec)

    async def _service(self, spec: ServiceSpec) -> None:
        """Create or update one service; when somebody came in between, look again."""
        import grpc

        name = spec.annotations.name
        if self._with_registry_auth:
            from flota.cli.registry_auth import credentials_for

            spec.task.container.registry_auth = credentials_for(spec.task.container.image)
        for attempt in range(_ATTEMPTS):
            existing = self._there.services.get(name)
            try:
                await (self._create(spec) if existing is None else self._update(existing, spec))
                return
            except grpc.aio.AioRpcError as error:
                again = (grpc.StatusCode.ABORTED, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND)
                if error.code() not in again or attempt == _ATTEMPTS - 1:
                    raise CommandFailed(f"service {name}: {error.details()}") from None
                self._there = await inventory(self._session, self._stack.name)
                now = self._there.services.get(name)
                if (existing is None) == (now is None) and error.code() != grpc.StatusCode.ABORTED:
                    # Nobody came in between: the name is another's, or what it refers to is missing.
                    raise CommandFailed(f"service {name}: {error.details()}") from None

    async def _create(self, spec: ServiceSpec) -> None:
        from flota.v1.control_pb2 import CreateServiceRequest

        name = spec.annotations.name
        answer = await self._session.control.CreateService(CreateServiceRequest(spec=spec))
        self._say(f"Creating service {name}")
        self._warn(*(f"service {name}: {warning}" for warning in answer.warnings))
        self._deployed[name] = answer.service
        self._changed.add(name)
        self._first.add(name)

    async def _update(self, existing: Service, asked: ServiceSpec) -> None:
        from flota.v1.control_pb2 import UpdateServiceRequest

        name = asked.annotations.name
        spec = adapted(asked, existing.spec, self._resolve_image)
        request = UpdateServiceRequest(service_id=existing.id, version=existing.meta.version, spec=spec)
        answer = await self._session.control.UpdateService(request)
        self._deployed[name] = answer.service
        if answer.service.meta.version == existing.meta.version:
            self._say(f"Service {name} is unchanged")
            return
        self._changed.add(name)
        self._say(f"Updating service {name} (id: {existing.id})")
        self._warn(*(f"service {name}: {warning}" for warning in answer.warnings))

    def _warn(self, *texts: str) -> None:
        for text in texts:
            click.echo(f"Warning: {text}", err=True)

    # --- waiting --------------------------------------------------------------------------------------------------

    async def _wait_for_dependencies(self, spec: ServiceSpec) -> None:
        """A service that is deployed for the first time comes after what it depends on is as far as it asks for."""
        wanted = {self._deployed[each.service].id: each for each in spec.depends_on if each.service in self._deployed}
        if not wanted:
            return
        from flota.cli.stack.dependencies import wait_until

        name = spec.annotations.name
        try:
            await wait_until(self._session, name, wanted, self._quiet)
        except CommandFailed as failure:
            left = self._not_deployed()
            raise CommandFailed(f"{failure}; {_listed(left)} not deployed, as {name} depends on it") from None
        except asyncio.CancelledError:
            click.echo(f"Interrupted: {_listed(self._not_deployed())} not deployed.", err=True)
            raise

    def _not_deployed(self) -> list[str]:
        names = [spec.annotations.name for spec in self._stack.services]
        return [name for name in names if name not in self._deployed]

    async def _wait(self) -> None:
        """Wait for what was made or changed, and for what has not got there since."""
        from flota.cli.convergence import Convergence
        from flota.cli.waiting import wait_for

        tasks = await tasks_of(self._session, [service.id for service in self._deployed.values()])
        waited, history = [], []
        for name, service in self._deployed.items():
            own = [task for task in tasks if task.service_id == service.id]
            convergence = Convergence(service)
            for task in own:
                convergence.observe_task(task)
            if name in self._changed or not convergence.progress().converged:
                waited.append(service)
            if name not in self._first:
                # A failure of a service that is only now made is news, however quick it was.
                history += own
        await wait_for(self._session, waited, self._quiet, history, hint=f"flota stack ps {self._stack.name}")

    # --- pruning --------------------------------------------------------------------------------------------------

    async def _prune_services(self) -> None:
        from flota.v1.control_pb2 import RemoveServiceRequest

        wanted = {spec.annotations.name for spec in self._stack.services}
        for name, service in self._there.services.items():
            if name not in wanted:
                self._say(f"Removing service {name}")
                await ignoring_missing(self._session.control.RemoveService(RemoveServiceRequest(service_id=service.id)))

    async def _prune_objects(self) -> None:
        """Networks, secrets and configs that the file no longer has; what is still in use stays, with a warning."""
        from flota.cli.stack.removing import remove_objects

        external = {name for _, name in self._stack.external}

        def left(there: dict[str, T], specs: Iterable[NetworkSpec | SecretSpec | ConfigSpec]) -> dict[str, T]:
            wanted = external | {spec.annotations.name for spec in specs}
            return {name: thing for name, thing in there.items() if name not in wanted}

        unwanted = Inventory(
            {name: service for name, service in self._there.services.items() if name not in self._deployed},
            left(self._there.networks, self._stack.networks),
            left(self._there.secrets, self._stack.secrets),
            left(self._there.configs, self._stack.configs),
        )
        self._warn(*await remove_objects(self._session, unwanted, self._say))


def _other_content(kind: str, name: str) -> str:
    return (
        f"{kind} {name} has another content in the cluster than in the file, and {kind}s do not change: "
        f"give the new one a new name (name: {name}_2), or remove it first (flota {kind} rm {name})"
    )


async def ignoring_missing(call: Awaitable[object]) -> None:
    """Removing what another one has just removed is no failure."""
    import grpc

    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
