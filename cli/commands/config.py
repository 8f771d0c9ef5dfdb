"""`flota config`: create, ls, inspect, rm."""

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
    result_format_option,
)
from flota.cli.session import Session, talks

_FILTERS = ("id", "name", "label")
# SwarmKit's limit, which the control API holds; here it keeps a device or pipe without end from filling memory.
_TOO_LARGE = 1000 << 10


@click.group(cls=Group)
def config() -> None:
    """Configuration files for services."""


@config.command(
    cls=Command,
    examples=[
        "flota config create nginx.conf ./nginx.conf",
        "printf 'level=debug' | flota config create --label team=shop settings -",
    ],
)
@label_option
@click.option("--template-driver", metavar="DRIVER", default="", help="golang: templates in it are filled in.")
@result_format_option
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@talks
async def create(
    session: Session, name: str, file: str, labels: tuple[str, ...], template_driver: str, form: str | None
) -> None:
    """Create a config from FILE (- is standard input).

    It appears as a file in the containers of services that use it.
    """
    from flota.cli.content import read_content
    from flota.cli.service.scalars import read_flag
    from flota.cli.service.values import key_value
    from flota.v1.control_pb2 import CreateConfigRequest
    from flota.v1.specs_pb2 import ConfigSpec

    spec = ConfigSpec(template_driver=template_driver)
    spec.annotations.name = name
    spec.annotations.labels.update(read_flag("label", key_value, text) for text in labels)
    spec.data = read_content(file, "config", _TOO_LARGE)
    answer = await session.control.CreateConfig(CreateConfigRequest(spec=spec))
    if form:
        from flota.cli.output.objects import print_object

        print_object({"ID": answer.config.id}, form)
    else:
        click.echo(answer.config.id)


@config.command(
    cls=Command,
    examples=["flota config ls", "flota config ls --filter label=team=shop --format '{{.Name}} {{.CreatedAt}}'"],
)
@filter_option(*_FILTERS)
@format_option
@quiet_option()
@talks
async def ls(session: Session, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List configs.

    Those that hold the history of stacks are left out, unless asked for: --filter label=flota.stack.record.
    """
    from flota.cli.filters import Filters

    wanted = Filters(filters, _FILTERS)
    from flota.cli.output.files import CONFIG_COLUMNS, print_files
    from flota.v1.control_pb2 import ListConfigsRequest
    from flota.v1.stack_records import RECORD, is_record

    answer = await session.control.ListConfigs(ListConfigsRequest())
    records = any(label.startswith(RECORD) for label in wanted.get("label"))
    shown = [each for each in answer.configs if records or not is_record(each)]
    print_files(CONFIG_COLUMNS, shown, wanted, form, quiet)


@config.command(
    cls=Command,
    examples=["flota config inspect nginx.conf", "flota config inspect --format '{{json .Spec}}' nginx.conf"],
)
@inspect_format_option
@pretty_option
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...", shell_complete=completing.configs)
@talks
async def inspect(session: Session, configs: tuple[str, ...], form: str | None, pretty: bool) -> None:
    """Show configs as JSON in the shape of Docker's API, or for people."""
    from flota.cli.inspection import inspect_each
    from flota.cli.output.files import pretty_file
    from flota.gateway.translation.shown import config as shape

    await inspect_each(session, configs, lookup.config, shape, form, pretty_file if pretty else None)


@config.command(cls=Command, examples=["flota config rm nginx.conf"])
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...", shell_complete=completing.configs)
@talks
async def rm(session: Session, configs: tuple[str, ...]) -> None:
    """Remove configs that no service uses."""
    from flota.cli.several import remove_each
    from flota.v1.control_pb2 import RemoveConfigRequest

    async def remove(wanted: str) -> None:
        found = await lookup.config(session, wanted)
        await session.control.RemoveConfig(RemoveConfigRequest(config_id=found.id))

    await remove_each(session, configs, remove)
