"""Fills in what a spec refers to by name: the ids of its secrets and configs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flota.cli import lookup
from flota.v1.specs_pb2 import ServiceSpec

if TYPE_CHECKING:
    from flota.cli.session import Session


async def fill_in(session: Session, spec: ServiceSpec) -> None:
    """Set ids (and names, where an id was given). Raises CommandFailed when there is no such secret or config."""
    container = spec.task.container
    secrets = [each for each in container.secrets if not each.secret_id]
    if secrets:
        found_secrets = await lookup.every(session, lookup.secret, [each.secret_name for each in secrets])
        for reference, secret in zip(secrets, found_secrets, strict=True):
            reference.secret_id, reference.secret_name = secret.id, secret.spec.annotations.name
    configs = [each for each in container.configs if not each.config_id]
    if configs:
        found_configs = await lookup.every(session, lookup.config, [each.config_name for each in configs])
        for config_reference, config in zip(configs, found_configs, strict=True):
            config_reference.config_id, config_reference.config_name = config.id, config.spec.annotations.name
