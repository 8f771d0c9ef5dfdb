"""`flota secret` and `flota config`: the same four commands for two kinds of objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flota.cli.filters import Filters
    from flota.v1.objects_pb2 import Config, Secret

F = TypeVar("F", bound=Callable[..., Any])
_FILTERS = ("id", "name", "label")


class Kind(NamedTuple):
    """What `flota secret` and `flota config` do not have in common."""

    word: Literal["secret", "config"]
    group_help: str
    create_help: str
    list_help: str
    # Of create, ls, inspect, rm.
    examples: tuple[list[str], list[str], list[str], list[str]]
    # SwarmKit's limit, which the control API holds; here it keeps a device or pipe without end from filling memory.
    too_large: int


def group(kind: Kind) -> click.Group:
    """The commands of a kind."""
    made = Group(kind.word, help=kind.group_help)
    for command in (_create(kind), _ls(kind), _inspect(kind), _rm(kind)):
        made.add_command(command)
    return made


def _names(kind: Kind) -> Callable[[F], F]:
    complete = completing.secrets if kind.word == "secret" else completing.configs
    return click.argument(
        "names", nargs=-1, required=True, metavar=f"{kind.word.upper()}...", shell_complete=complete
    )  # fmt: skip


async def _found(session: Session, kind: Kind, wanted: str) -> Secret | Config:
    return await (lookup.secret if kind.word == "secret" else lookup.config)(session, wanted)


def _create(kind: Kind) -> click.Command:
    @click.command("create", cls=Command, help=kind.create_help, examples=kind.examples[0])
    @label_option
    @click.option("--template-driver", metavar="DRIVER", default="", help="golang: templates in it are filled in.")
    @refused_option("--driver", f"{kind.word}s are kept by the managers")
    @result_format_option
    @click.argument("name")
    @click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
    @talks
    async def create(
        session: Session, name: str, file: str, labels: tuple[str, ...], template_driver: str, form: str | None
    ) -> None:
        from flota.cli.content import read_content
        from flota.cli.service.scalars import read_flag
        from flota.cli.service.values import key_value
        from flota.v1.control_pb2 import CreateConfigRequest, CreateSecretRequest

        request = CreateSecretRequest() if kind.word == "secret" else CreateConfigRequest()
        request.spec.template_driver = template_driver
        request.spec.annotations.name = name
        request.spec.annotations.labels.update(read_flag("label", key_value, text) for text in labels)
        request.spec.data = read_content(file, kind.word, kind.too_large)
        if isinstance(request, CreateSecretRequest):
            id = (await session.control.CreateSecret(request)).secret.id
        else:
            id = (await session.control.CreateConfig(request)).config.id
        if form:
            from flota.cli.output.objects import print_object

            print_object({"ID": id}, form)
        else:
            click.echo(id)

    return create


def _ls(kind: Kind) -> click.Command:
    @click.command("ls", cls=Command, help=kind.list_help, examples=kind.examples[1])
    @filter_option(*_FILTERS)
    @format_option
    @quiet_option()
    @talks
    async def ls(session: Session, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
        from flota.cli.filters import Filters
        from flota.cli.output.files import CONFIG_COLUMNS, SECRET_COLUMNS, print_files
        from flota.v1.control_pb2 import ListSecretsRequest

        wanted = Filters(filters, _FILTERS)
        if kind.word == "secret":
            secrets = (await session.control.ListSecrets(ListSecretsRequest())).secrets
            print_files(SECRET_COLUMNS, secrets, wanted, form, quiet)
        else:
            print_files(CONFIG_COLUMNS, await _configs(session, wanted), wanted, form, quiet)

    return ls


async def _configs(session: Session, wanted: Filters) -> Sequence[Config]:
    """All configs, without what stacks keep in them, unless that is asked for."""
    from flota.v1.control_pb2 import ListConfigsRequest
    from flota.v1.stack_records import RECORD, is_record

    configs = (await session.control.ListConfigs(ListConfigsRequest())).configs
    records = any(label.startswith(RECORD) for label in wanted.get("label"))
    return [each for each in configs if records or not is_record(each)]


def _inspect(kind: Kind) -> click.Command:
    text = f"Show {kind.word}s as JSON in the shape of Docker's API, or for people."

    @click.command("inspect", cls=Command, help=text, examples=kind.examples[2])
    @inspect_format_option
    @pretty_option
    @_names(kind)
    @talks
    async def inspect(session: Session, names: tuple[str, ...], form: str | None, pretty: bool) -> None:
        from flota.cli.inspection import inspect_each
        from flota.cli.output.files import pretty_file
        from flota.gateway.translation import shown
        from flota.v1.objects_pb2 import Secret

        def shape(thing: Secret | Config) -> Any:
            return shown.secret(thing) if isinstance(thing, Secret) else shown.config(thing)

        async def find(session: Session, wanted: str) -> Secret | Config:
            return await _found(session, kind, wanted)

        await inspect_each(session, names, find, shape, form, pretty_file if pretty else None)

    return inspect


def _rm(kind: Kind) -> click.Command:
    @click.command("rm", cls=Command, help=f"Remove {kind.word}s that no service uses.", examples=kind.examples[3])
    @_names(kind)
    @talks
    async def rm(session: Session, names: tuple[str, ...]) -> None:
        from flota.cli.several import remove_each
        from flota.v1.control_pb2 import RemoveConfigRequest, RemoveSecretRequest

        async def remove(wanted: str) -> None:
            id = (await _found(session, kind, wanted)).id
            if kind.word == "secret":
                await session.control.RemoveSecret(RemoveSecretRequest(secret_id=id))
            else:
                await session.control.RemoveConfig(RemoveConfigRequest(config_id=id))

        await remove_each(session, names, remove)

    return rm


secret = group(
    Kind(
        word="secret",
        group_help="Secrets for services.",
        create_help="Create a secret from FILE (- is standard input).\n\n"
        "It reaches only the nodes whose tasks use it, and stands there in memory.",
        list_help="List secrets.",
        examples=(
            [
                "openssl rand -base64 24 | flota secret create db-password -",
                "flota secret create --label team=shop certificate cert.pem",
            ],
            ["flota secret ls", "flota secret ls --filter label=team=shop --format '{{.Name}} {{.CreatedAt}}'"],
            ["flota secret inspect db-password", "flota secret inspect --format '{{.Spec.Name}}' db-password"],
            ["flota secret rm db-password"],
        ),
        too_large=500 << 10,
    )
)
config = group(
    Kind(
        word="config",
        group_help="Configuration files for services.",
        create_help="Create a config from FILE (- is standard input).\n\n"
        "It appears as a file in the containers of services that use it.",
        list_help="List configs.\n\n"
        "Those that hold the history of stacks are left out, unless asked for: --filter label=flota.stack.record.",
        examples=(
            [
                "flota config create nginx.conf ./nginx.conf",
                "printf 'level=debug' | flota config create --label team=shop settings -",
            ],
            ["flota config ls", "flota config ls --filter label=team=shop --format '{{.Name}} {{.CreatedAt}}'"],
            ["flota config inspect nginx.conf", "flota config inspect --format '{{json .Spec}}' nginx.conf"],
            ["flota config rm nginx.conf"],
        ),
        too_large=1000 << 10,
    )
)
