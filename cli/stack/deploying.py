"""Brings a stack about: what its services use (objects.py), the services in their order, then what is no longer wanted.

Each step is idempotent and names the version it rests on: deploying the same again changes nothing. Of two deploys at
once one waits for the other (turns.py); what somebody else changes meanwhile is read again. What was deployed is kept
as a revision (history.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import click

from flota.cli import lookup
from flota.cli.failures import CommandFailed
from flota.cli.image_pins import pin_all
from flota.cli.stack.history import Kept, forget, record, set_outcome
from flota.cli.stack.inventory import Inventory, inventory, tasks_of
from flota.cli.stack.objects import Objects
from flota.cli.stack.turns import Turn, turn
from flota.stacks.translation.adapting import adapted
from flota.stacks.versions import unwanted, with_versions
from flota.v1.network_options import PREDEFINED

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.stacks.translation.stack import Stack
    from flota.v1.objects_pb2 import Service
    from flota.v1.specs_pb2 import ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec

_ATTEMPTS = 10
CONVERGED = "converged"


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
        source: str = "",
        standstill: float | None = None,
    ) -> None:
        """`source` is where the stack comes from, for its history; `standstill` ends the wait (waiting.py)."""
        self._session = session
        self._stack = stack
        self._with_registry_auth = with_registry_auth
        self._resolve_image = resolve_image
        self._detach = detach
        self._quiet = quiet
        self._source = source
        self._standstill = standstill
        self._there = Inventory({}, {}, {}, {})
        # Services as they are after this deploy, and those that were only now made or changed.
        self._deployed: dict[str, Service] = {}
        self._changed: set[str] = set()
        self._first: set[str] = set()
        # What was done, for the history.
        self._done: Counter[str] = Counter()

    async def run(self, prune: bool, prune_objects: bool = True) -> None:
        """Deploy, and wait unless detached. Raises CommandFailed."""
        async with turn(self._session, self._stack.name, self._say) as mine:
            kept = await self._apply(prune, mine)
        if not self._detach:
            await self._wait_and_note(kept)
        if prune and prune_objects:
            async with turn(self._session, self._stack.name, self._say):
                await self._prune_objects()
        kept_secrets = await forget(self._session, self._stack.name)
        if kept_secrets and self._done["secret rotated"]:
            names = ", ".join(kept_secrets)
            self._say(f"Kept for `flota stack rollback`: secret {names} (`flota secret rm` removes it for good)")
        if not self._done:
            self._say(f"Nothing changed: stack {self._stack.name} is what the files say")

    async def _apply(self, prune: bool, mine: Turn) -> Kept | None:
        """Change what is to change; gives the revision that was kept of it."""
        self._there = await inventory(self._session, self._stack.name)
        await self._check_external()
        if prune:
            await self._prune_services()
        objects = Objects(self._session, self._stack, self._there, self._say, self._warn, self._done)
        secrets, configs = await objects.run()
        self._there = objects.there
        self._stack.services = [with_versions(spec, secrets, configs) for spec in self._stack.services]
        self._warn(*await pin_all(self._session, self._stack.services, self._there.services, self._resolve_image))
        await self._services(mine)
        kept = await record(
            self._session, self._stack.name, self._there, self._stack.services, self._stack.networks, self._source,
            _summary(self._done),
        )  # fmt: skip
        if isinstance(kept, str):
            self._warn(kept)
            return None
        return kept

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
            if kind == "network" and name in PREDEFINED:
                continue
            try:
                await finders[kind](self._session, name)
            except lookup.Missing:
                hint = hints[kind].replace("NAME", name)
                needed = "is needed" if self._source.startswith("rollback") else "is declared as external"
                raise CommandFailed(f"{kind} {name!r} {needed}, but there is none: make it first ({hint})") from None

    # --- services -------------------------------------------------------------------------------------------------

    async def _services(self, mine: Turn) -> None:
        for spec in self._stack.services:
            if spec.annotations.name not in self._there.services and not self._detach:
                await self._wait_for_dependencies(spec, mine)
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
        self._done["service created"] += 1

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
        self._done["service changed"] += 1
        self._say(f"Updating service {name} (id: {existing.id})")
        self._warn(*(f"service {name}: {warning}" for warning in answer.warnings))

    def _warn(self, *texts: str) -> None:
        for text in texts:
            click.echo(f"Warning: {text}", err=True)

    # --- waiting --------------------------------------------------------------------------------------------------

    async def _wait_for_dependencies(self, spec: ServiceSpec, mine: Turn) -> None:
        """A service that is deployed for the first time comes after what it depends on is as far as it asks for."""
        wanted = {self._deployed[each.service].id: each for each in spec.depends_on if each.service in self._deployed}
        if not wanted:
            return
        from flota.cli.stack.dependencies import wait_until

        name = spec.annotations.name
        try:
            await wait_until(self._session, name, wanted, self._quiet, self._standstill)
        except CommandFailed as failure:
            left = self._not_deployed()
            raise CommandFailed(f"{failure}; {_listed(left)} not deployed, as {name} depends on it") from None
        except asyncio.CancelledError:
            why = "Given up" if mine.lost else "Interrupted"
            click.echo(f"{why}: {_listed(self._not_deployed())} not deployed.", err=True)
            raise

    def _not_deployed(self) -> list[str]:
        names = [spec.annotations.name for spec in self._stack.services]
        return [name for name in names if name not in self._deployed]

    async def _wait_and_note(self, kept: Kept | None) -> None:
        try:
            await self._wait()
        except CommandFailed as failure:
            if kept is not None:
                await set_outcome(self._session, kept, str(failure))
            raise
        if kept is not None and kept.outcome != CONVERGED:
            await set_outcome(self._session, kept, CONVERGED)

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
        hint = f"flota stack ps {self._stack.name}"
        await wait_for(self._session, waited, self._quiet, history, hint=hint, standstill=self._standstill)

    # --- pruning --------------------------------------------------------------------------------------------------

    async def _prune_services(self) -> None:
        from flota.v1.control_pb2 import RemoveServiceRequest

        wanted = {spec.annotations.name for spec in self._stack.services}
        for name, service in self._there.services.items():
            if name not in wanted:
                self._say(f"Removing service {name}")
                self._done["service removed"] += 1
                await ignoring_missing(self._session.control.RemoveService(RemoveServiceRequest(service_id=service.id)))

    async def _prune_objects(self) -> None:
        """Networks, secrets and configs that the file no longer has; what is still in use stays, with a warning."""
        from flota.cli.stack.removing import remove_objects

        removed = {name: service for name, service in self._there.services.items() if name not in self._deployed}
        self._there = there = await inventory(self._session, self._stack.name)
        external = {name for _, name in self._stack.external}

        def wanted(specs: Iterable[NetworkSpec | SecretSpec | ConfigSpec]) -> set[str]:
            return external | {spec.annotations.name for spec in specs}

        networks = wanted(self._stack.networks)
        left = Inventory(
            removed,
            {name: network for name, network in there.networks.items() if name not in networks},
            unwanted(there.secrets, wanted(self._stack.secrets)),
            unwanted(there.configs, wanted(self._stack.configs)),
        )
        if left:
            self._done["removed"] += 1
        self._warn(*await remove_objects(self._session, left, self._say))


def _summary(done: Mapping[str, int]) -> str:
    """2 services changed, 1 secret rotated"""
    parts = []
    for key, count in sorted(done.items(), key=lambda item: not item[0].startswith("service")):
        kind, _, verb = key.partition(" ")
        parts.append(f"{count} {kind}{'s' if count > 1 else ''} {verb}")
    return ", ".join(parts)


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
