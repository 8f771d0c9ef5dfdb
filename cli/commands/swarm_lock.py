"""`flota swarm unlock` and `unlock-key`: the key without which a manager's disk says nothing (autolock)."""

from __future__ import annotations

import sys

import click

from flota.cli.failures import CommandFailed
from flota.cli.groups import Command
from flota.cli.options import quiet_option
from flota.cli.session import Session, talks
from flota.cli.swarm_options import unlock_words
from flota.cli.updates import with_newest


@click.command(cls=Command, examples=["flota swarm unlock", "flota swarm unlock < key-file"])
@talks
async def unlock(session: Session) -> None:
    """Give this manager the unlock key that it waits for. The key is asked for, or read from standard input."""
    from flota.v1.local_pb2 import InfoRequest, InfoResponse, UnlockRequest

    info = await session.local.Info(InfoRequest())
    if info.state == InfoResponse.STATE_INACTIVE:
        raise CommandFailed("This node is not part of a swarm")
    if info.state == InfoResponse.STATE_ACTIVE:
        raise CommandFailed("swarm is not locked")
    await session.local.Unlock(UnlockRequest(key=_asked()))


def _asked() -> str:
    if sys.stdin.isatty():
        key = str(click.prompt("Please enter unlock key", hide_input=True, err=True))
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise CommandFailed("no unlock key was given")
    return key.strip()


@click.command(
    "unlock-key", cls=Command, examples=["flota swarm unlock-key", "flota swarm unlock-key --rotate --quiet"]
)
@click.option("--rotate", is_flag=True, help="Make a new key; managers that are down now still need the old one.")
@quiet_option("Only the key.")
@talks
async def unlock_key(session: Session, rotate: bool, quiet: bool) -> None:
    """Show the key that managers ask for after a restart."""
    from flota.v1.control_pb2 import GetClusterRequest, GetUnlockKeyRequest, UpdateClusterRequest

    async def once() -> None:
        cluster = (await session.control.GetCluster(GetClusterRequest())).cluster
        await session.control.UpdateCluster(UpdateClusterRequest(version=cluster.meta.version, rotate_unlock_key=True))

    if rotate:
        await with_newest(once)
        if not quiet:
            click.echo("Successfully rotated manager unlock key.\n")
    key = (await session.control.GetUnlockKey(GetUnlockKeyRequest())).unlock_key
    if not key:
        raise CommandFailed("no unlock key is set: autolock is off (swarm update --autolock)")
    click.echo(key if quiet else unlock_words(key))
