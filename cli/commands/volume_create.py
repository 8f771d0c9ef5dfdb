"""`flota volume create`, `rm` and `prune`: on this node."""

from __future__ import annotations

import click

from flota.cli import completing, volumes
from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import confirmed, filter_option, force_option, label_option
from flota.cli.session import Session, talks
from flota.cli.several import remove_each


@click.command(
    cls=Command,
    examples=[
        "flota volume create data",
        "flota volume create --opt type=nfs --opt device=:/export --opt o=addr=10.0.0.9,rw shared",
        "flota volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=100m scratch",
        "flota volume create --opt type=none --opt device=/srv/data --opt o=bind data",
    ],
)
@click.option("-d", "--driver", default="local", metavar="DRIVER", help="local, which is the only one.")
@click.option("-o", "--opt", "options", multiple=True, metavar="KEY=VALUE", help="type, device, o, as for mount(8).")
@label_option
@click.argument("name", required=False, default="", metavar="[NAME]")
@talks
async def create(session: Session, name: str, driver: str, options: tuple[str, ...], labels: tuple[str, ...]) -> None:
    """Make a volume on this node and print its name, which is made up if there is none.

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
    click.echo((await session.agent.CreateVolume(request)).volume.name)


@click.command(cls=Command, examples=["flota volume rm data"])
@click.option("-f", "--force", is_flag=True, help="It need not be there.")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...", shell_complete=completing.volumes)
@talks
async def rm(session: Session, names: tuple[str, ...], force: bool) -> None:
    """Remove volumes of this node, and all that is in them."""
    import grpc

    from flota.v1.local_pb2 import RemoveVolumeRequest

    async def remove(name: str) -> None:
        try:
            await session.agent.RemoveVolume(RemoveVolumeRequest(name=name, force=force))
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            elsewhere = [one.node for one in await volumes.of_all_nodes(session) if one.volume.name == name]
            where = f" on this node (it is on {', '.join(elsewhere)}: remove it there)" if elsewhere else ""
            raise CommandFailed(f"no such volume: {name}{where}") from None

    await remove_each(session, names, remove)


@click.command(cls=Command, examples=["flota volume prune", "flota volume prune --force --filter label=scratch"])
@click.option("-a", "--all", "_everything", is_flag=True, help="Only for Docker's sake: all are meant.", hidden=True)
@filter_option("label")
@force_option
@talks
async def prune(session: Session, filters: tuple[str, ...], force: bool, _everything: bool) -> None:
    """Remove volumes of this node that nothing uses, and all that is in them."""
    from flota.cli.output.human import decimal_size
    from flota.v1.local_pb2 import PruneVolumesRequest

    wanted = Filters(filters, ("label",))
    if not confirmed("This will remove all volumes on this node that nothing uses.", force):
        return
    answer = await session.agent.PruneVolumes(PruneVolumesRequest(labels=wanted.label_map("label")))
    for name in answer.names:
        click.echo(name)
    click.echo(f"Total reclaimed space: {decimal_size(answer.reclaimed_bytes)}")
