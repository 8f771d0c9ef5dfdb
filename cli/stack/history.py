"""A stack's past: each deploy that changed something leaves a revision; the newest few are kept.

Revisions name the very secrets and configs they were deployed with, so these stay as long as a revision needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from flota.cli.failures import CommandFailed
from flota.cli.stack.inventory import Inventory, inventory
from flota.cli.stack.turns import who
from flota.stacks.records import (
    MOST_BYTES,
    OUTCOME,
    REVISION,
    pack,
    record_name,
    referenced,
    unpack,
    without_credentials,
)
from flota.stacks.translation.names import NAMESPACE
from flota.stacks.versions import family, name_of
from flota.v1.objects_pb2 import Config, Secret
from flota.v1.stack_pb2 import StackRevision
from flota.v1.stack_records import RECORD

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.specs_pb2 import NetworkSpec, ServiceSpec

T = TypeVar("T", Secret, Config)
KEPT = 10
_LONGEST_OUTCOME = 300


@dataclass(frozen=True)
class Kept:
    """A revision and the config that holds it."""

    revision: StackRevision
    config: Config

    @property
    def outcome(self) -> str:
        """converged, or why not; empty when nobody waited for it."""
        return self.config.spec.annotations.labels.get(OUTCOME, "")


def revisions_of(there: Inventory) -> list[Kept]:
    """The revisions of a stack, the newest first."""
    found = []
    for config in there.records:
        if config.spec.annotations.labels[RECORD] == REVISION and (revision := unpack(config.spec.data)) is not None:
            found.append(Kept(revision, config))
    return sorted(found, key=lambda kept: -kept.revision.revision)


def find(revisions: Sequence[Kept], stack: str, number: int) -> Kept:
    """Revision `number`. Raises CommandFailed that says which there are."""
    for kept in revisions:
        if kept.revision.revision == number:
            return kept
    known = ", ".join(str(kept.revision.revision) for kept in revisions) or "none"
    raise CommandFailed(f"stack {stack} has no revision {number}; kept are: {known} (flota stack history {stack})")


def same(revision: StackRevision, services: Iterable[ServiceSpec], networks: Iterable[NetworkSpec]) -> bool:
    """Whether a revision already says this."""

    def told(specs: Iterable[ServiceSpec | NetworkSpec]) -> list[bytes]:
        return sorted(spec.SerializeToString(deterministic=True) for spec in specs)

    return told(revision.services) == told(without_credentials(services)) and told(revision.networks) == told(networks)


async def record(
    session: Session,
    stack: str,
    there: Inventory,
    services: Sequence[ServiceSpec],
    networks: Sequence[NetworkSpec],
    source: str,
    summary: str,
) -> Kept | str:
    """Keep what was deployed as the next revision. Gives a warning instead when it is too large.

    The newest one again, when that says the same and nothing was changed (`summary` is empty).
    """
    from flota.v1.control_pb2 import CreateConfigRequest
    from flota.v1.specs_pb2 import ConfigSpec

    past = revisions_of(there)
    if past and not summary and same(past[0].revision, services, networks):
        return past[0]
    revision = StackRevision(
        stack=stack,
        revision=past[0].revision.revision + 1 if past else 1,
        deployed_by=who(),
        source=source,
        summary=summary or "nothing changed",
        services=without_credentials(services),
        networks=networks,
    )
    revision.deployed_at.GetCurrentTime()
    spec = ConfigSpec(data=pack(revision))
    if len(spec.data) >= MOST_BYTES:
        return f"stack {stack} is too large for its history: this deploy cannot be rolled back to"
    spec.annotations.name = record_name(stack, f"revision.{revision.revision}")
    spec.annotations.labels.update({NAMESPACE: stack, RECORD: REVISION})
    config = (await session.control.CreateConfig(CreateConfigRequest(spec=spec))).config
    return Kept(revision, config)


async def set_outcome(session: Session, kept: Kept, outcome: str) -> None:
    """Note what came of a revision. Never fails: it is a note."""
    import grpc

    from flota.v1.control_pb2 import GetConfigRequest, UpdateConfigRequest

    with suppress(grpc.aio.AioRpcError):
        now = (await session.control.GetConfig(GetConfigRequest(config_id=kept.config.id))).config
        now.spec.annotations.labels[OUTCOME] = " ".join(outcome.split())[:_LONGEST_OUTCOME]
        request = UpdateConfigRequest(config_id=now.id, version=now.meta.version, spec=now.spec)
        await session.control.UpdateConfig(request)


async def forget(session: Session, stack: str, keep: int = KEPT) -> list[str]:
    """Remove the oldest revisions, and the versions of secrets and configs that only they needed.

    What a service still uses stays: the managers refuse to remove it. Gives the names of the secrets that have a newer
    version and are kept for a revision that needs them.
    """
    import grpc

    from flota.v1.control_pb2 import RemoveConfigRequest, RemoveSecretRequest

    there = await inventory(session, stack)
    past = revisions_of(there)
    for old in past[keep:]:
        with suppress(grpc.aio.AioRpcError):
            await session.control.RemoveConfig(RemoveConfigRequest(config_id=old.config.id))
    secrets, configs = referenced(kept.revision for kept in past[:keep])
    older = _superseded(there.secrets)
    for name, secret in older:
        if name not in secrets:
            with suppress(grpc.aio.AioRpcError):
                await session.control.RemoveSecret(RemoveSecretRequest(secret_id=secret.id))
    for name, config in _superseded(there.configs):
        if name not in configs:
            with suppress(grpc.aio.AioRpcError):
                await session.control.RemoveConfig(RemoveConfigRequest(config_id=config.id))
    used = {each.secret_name for service in there.services.values() for each in service.spec.task.container.secrets}
    return sorted(name for name, _ in older if name in secrets and name not in used)


def _superseded(things: Mapping[str, T]) -> list[tuple[str, T]]:
    """Versions that have a newer one."""
    names = {name_of(thing) for thing in things.values()}
    old = [each for name in names for each in family(name, things.values())[1:]]
    return [(each.spec.annotations.name, each) for each in old]
