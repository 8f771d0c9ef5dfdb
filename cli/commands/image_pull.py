"""`flota image pull`."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.options import result_format_option
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=["flota image pull busybox:1.36", "flota image pull --quiet registry:5000/shop/web:1.1"],
)
@click.option("-q", "--quiet", is_flag=True, help="Print the name only.")
@result_format_option
@click.argument("image", metavar="NAME[:TAG|@DIGEST]", shell_complete=completing.images)
@talks
async def pull(session: Session, image: str, quiet: bool, form: str | None) -> None:
    """Get an image from its registry onto this node, with the credentials of `docker login`.

    Nodes that run tasks do so by themselves.
    """
    from flota.cli.registry_auth import credentials_for
    from flota.v1.local_pb2 import PullImageRequest

    request = PullImageRequest(reference=image, registry_auth=credentials_for(image))
    async for message in session.agent.PullImage(request):
        if message.HasField("image"):
            if form:
                from flota.cli.output.objects import print_object

                shape = {"ID": message.image.id, "References": list(message.image.references)}
                print_object(shape | {"Size": message.image.size_bytes}, form)
            else:
                click.echo(image)
        elif not quiet and not form:
            click.echo(message.line)
