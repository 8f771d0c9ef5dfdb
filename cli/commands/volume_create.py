"""`flota volume create`: on this node or another."""

from __future__ import annotations

import click

from flota.cli import volumes
from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.options import label_option
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=[
        "flota volume create data",
        "flota volume create --node w2 data",
        "flota volume create --opt type=nfs --opt device=:/export --opt o=addr=10.0.0.9,rw shared",
        "flota volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=100m scratch",
        "flota volume create --opt type=none --opt device=/srv/data --opt o=bind data",
    ],
)
@click.option("-d", "--driver", default="local", metavar="DRIVER", help="local, which is the only one.")
@click.option("-o", "--opt", "options", multiple=True, metavar="KEY=VALUE", help="type, device, o, as for mount(8).")
@label_option
@volumes.node_option
@click.argument("name", required=False, default="", metavar="[NAME]")
@talks
async def create(
    session: Session, name: str, driver: str, options: tuple[str, ...], labels: tuple[str, ...], node: str
) -> None:
    """Make a volume on this node (or --node) and print its name, which is made up if there is none.

    What its options say is mounted when a task uses it.
    """
    from flota.cli.service.values import key_value, strict_key_value
    from flota.stacks.errors import BadValue
    from flota.v1.local_pb2 import CreateVolumeRequest

    request = CreateVolumeRequest(name=name)
    request.driver.name = driver
    try:
        request.driver.options.update(map(strict_key_value, options))
    except BadValue as error:
        raise BadFlag(error.of("--opt")) from None
    try:
        request.labels.update(map(key_value, labels))
    except BadValue as error:
        raise BadFlag(error.of("--label")) from None
    click.echo(await volumes.create(session, node, request))
