"""`flota login` and `logout`: a person's credentials for registries, where Docker keeps them, too."""

from __future__ import annotations

import sys

import click

from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.session import Session, talks

_HUB = "docker.io"


@click.command(
    cls=Command,
    examples=["flota login registry:5000", "cat password | flota login --username me --password-stdin registry:5000"],
)
@click.option("-u", "--username", metavar="NAME", help="Asked for when it is not given.")
@click.option("-p", "--password", metavar="PASSWORD", help="All users here see it: rather --password-stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.argument("server", required=False, default=_HUB, metavar="[HOST[:PORT]]")
@talks
async def login(
    session: Session, server: str, username: str | None, password: str | None, password_stdin: bool
) -> None:
    """Try credentials at a registry through this node, and remember them.

    They are kept in ~/.docker/config.json ($DOCKER_CONFIG), by the credential helper named there if there is one.
    """
    from flota.cli import registry_auth
    from flota.v1.local_pb2 import CheckRegistryAuthRequest

    if password is not None and password_stdin:
        raise BadFlag("--password and --password-stdin exclude each other")
    if password_stdin and not username:
        raise BadFlag("--password-stdin needs --username")
    if "/" in server:
        raise BadFlag(f"invalid registry {server!r}: HOST[:PORT] is needed")
    if not password_stdin and not sys.stdin.isatty() and not (username and password):
        raise BadFlag("there is no terminal to ask on: use --username and --password-stdin")
    user = username or click.prompt("Username", err=True)
    if password_stdin:
        secret = sys.stdin.read().rstrip("\r\n")
    else:
        secret = password if password is not None else click.prompt("Password", hide_input=True, err=True)
    if not secret:
        raise CommandFailed("the password is empty")
    auth = registry_auth.encoded({"username": user, "password": secret}, registry_auth.key_of(server))
    await session.agent.CheckRegistryAuth(CheckRegistryAuthRequest(registry=server, registry_auth=auth))
    if not registry_auth.store(server, user, secret):
        click.echo(
            "Warning: the password is stored unencrypted in Docker's config.json; a credential helper would keep it "
            "(credsStore)",
            err=True,
        )
    click.echo("Login Succeeded")


@click.command(cls=Command, examples=["flota logout registry:5000"])
@click.argument("server", required=False, default=_HUB, metavar="[HOST[:PORT]]")
def logout(server: str) -> None:
    """Forget the credentials for a registry."""
    from flota.cli import registry_auth

    if registry_auth.erase(server):
        click.echo(f"Removing login credentials for {server}")
    else:
        click.echo(f"Not logged in to {server}")
