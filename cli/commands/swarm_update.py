"""`flota swarm update`."""

from __future__ import annotations

from typing import Any

import click

from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.session import Session, talks
from flota.cli.swarm_options import cluster_options, set_cluster_spec, unlock_words
from flota.cli.updates import with_newest


@click.command(
    cls=Command, examples=["flota swarm update --task-history-limit 2", "flota swarm update --cert-expiry 720h"]
)
@cluster_options
@talks
async def update(session: Session, /, **flags: Any) -> None:
    """Change the swarm's configuration."""
    from flota.v1.control_pb2 import GetClusterRequest, GetUnlockKeyRequest, UpdateClusterRequest

    if all(value is None for value in flags.values()):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in flags)
        raise BadFlag(f"nothing to change: give one of {names}")

    async def once() -> None:
        cluster = (await session.control.GetCluster(GetClusterRequest())).cluster
        set_cluster_spec(cluster.spec, flags)
        await session.control.UpdateCluster(UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec))

    await with_newest(once)
    click.echo("Swarm updated.")
    if flags["autolock"]:
        key = (await session.control.GetUnlockKey(GetUnlockKeyRequest())).unlock_key
        click.echo(unlock_words(key))
