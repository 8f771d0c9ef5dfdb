"""`flota secret`: create, ls, inspect, rm."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.groups import Command, Group
from flota.cli.options import (
    filter_option,
    format_option,
    inspect_format_option,
    label_option,
    pretty_option,
    quiet_option,
    refused_option,
    result_format_option,
)
from flota.cli.session import Session, talks

_FILTERS = ("id", "name", "label")
# SwarmKit's limit, which the control API holds; here it keeps a device or pipe without end from filling memory.
_TOO_LARGE = 500 << 10


@click.group(cls=Group)
def secret() -> None:
    """Secrets for services."""


@secret.command(
    cls=Command,
    examples=[
        "openssl rand -base64 24 | flota secret create db-password -",
        "flota secret create --label team=shop certificate cert.pem",
    ],
)
@label_option
@refused_option("--driver", "secrets are kept by the managers")
@click.option("--template-driver", metavar="DRIVER", default="", help="golang: templates in it are filled in.")
@result_format_option
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@talks
async def create(
    session: Session, name: str, file: str, labels: tuple[str, ...], template_driver: str, form: str | None
) -> None:
    """Create a secret from FILE (- is standard input).

    It reaches only the nodes whose tasks use it, and stands there in memory.
    """
    from flota.cli.content import read_content
    from flota.cli.service.scalars import read_flag
    from flota.cli.service.values import key_value
    from flota.v1.control_pb2 import CreateSecretRequest
    from flota.v1.specs_pb2 import SecretSpec

    spec = SecretSpec(template_driver=template_driver)
    spec.annotations.name = name
    spec.annotations.labels.update(read_flag("label", key_value, text) for text in labels)
    spec.data = read_content(file, "secret", _TOO_LARGE)
    answer = await session.control.CreateSecret(CreateSecretRequest(spec=spec))
    if form:
        from flota.cli.output.objects import print_object

        print_object({"ID": answer.secret.id}, form)
    else:
        click.echo(answer.secret.id)


@secret.command(
    cls=Command,
    examples=["flota secret ls", "flota secret ls --filter label=team=shop --format '{{.Name}} {{.CreatedAt}}'"],
)
@filter_option(*_FILTERS)
@format_option
@quiet_option()
@talks
async def ls(session: Session, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List secrets."""
    from flota.cli.filters import Filters

    wanted = Filters(filters, _FILTERS)
    from flota.cli.output.files import SECRET_COLUMNS, print_files
    from flota.v1.control_pb2 import ListSecretsRequest

    answer = await session.control.ListSecrets(ListSecretsRequest())
    print_files(SECRET_COLUMNS, answer.secrets, wanted, form, quiet)


@secret.command(
    cls=Command,
    examples=["flota secret inspect db-password", "flota secret inspect --format '{{.Spec.Name}}' db-password"],
)
@inspect_format_option
@pretty_option
@click.argument("secrets", nargs=-1, required=True, metavar="SECRET...", shell_complete=completing.secrets)
@talks
async def inspect(session: Session, secrets: tuple[str, ...], form: str | None, pretty: bool) -> None:
    """Show secrets as JSON in the shape of Docker's API, or for people."""
    from flota.cli.inspection import inspect_each
    from flota.cli.output.files import pretty_file
    from flota.gateway.translation.shown import secret as shape

    await inspect_each(session, secrets, lookup.secret, shape, form, pretty_file if pretty else None)


@secret.command(cls=Command, examples=["flota secret rm db-password"])
@click.argument("secrets", nargs=-1, required=True, metavar="SECRET...", shell_complete=completing.secrets)
@talks
async def rm(session: Session, secrets: tuple[str, ...]) -> None:
    """Remove secrets that no service uses."""
    from flota.cli.several import remove_each
    from flota.v1.control_pb2 import RemoveSecretRequest

    async def remove(wanted: str) -> None:
        found = await lookup.secret(session, wanted)
        await session.control.RemoveSecret(RemoveSecretRequest(secret_id=found.id))

    await remove_each(session, secrets, remove)
