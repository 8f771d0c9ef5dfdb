"""`flota image pull` and `push`."""

from __future__ import annotations

import shutil
import sys

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.options import result_format_option
from flota.cli.session import Session, talks

_BAR = 40


class Progress:
    """Lines for people; on a terminal the last one is a bar as long as bytes come."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._bar = False

    def show(self, line: str, current: int = 0, total: int = 0) -> None:
        """What has happened; bytes that have come or gone out, and how many there will be."""
        if not (self._terminal and total):
            self.clear()
            click.echo(line)
            return
        from flota.cli.output.human import decimal_size

        done = min(_BAR, _BAR * current // total)
        bar = "=" * done if done == _BAR else "=" * done + ">"
        text = f"[{bar:<{_BAR}}] {decimal_size(current)}/{decimal_size(total)}"
        click.echo(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K", nl=False)
        sys.stdout.flush()
        self._bar = True

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar:
            click.echo("\r\x1b[K", nl=False)
            self._bar = False


@click.command(
    cls=Command,
    examples=["flota image pull busybox:1.36", "flota image pull --quiet registry:5000/shop/web:1.1"],
)
@click.option("-q", "--quiet", is_flag=True, help="Print the name only.")
@result_format_option
@click.argument("image", metavar="NAME[:TAG|@DIGEST]", shell_complete=completing.images)
@talks
async def pull(session: Session, image: str, quiet: bool, form: str | None) -> None:
    """Get an image from its registry onto this node, with the credentials of `flota login` or `docker login`.

    Nodes that run tasks do so by themselves.
    """
    from flota.cli.registry_auth import credentials_for
    from flota.v1.local_pb2 import PullImageRequest

    request = PullImageRequest(reference=image, registry_auth=credentials_for(image))
    progress = Progress()
    try:
        async for message in session.agent.PullImage(request):
            if not message.HasField("image"):
                if not quiet and not form:
                    progress.show(message.line, message.current_bytes, message.total_bytes)
                continue
            progress.clear()
            if form:
                from flota.cli.output.objects import print_object

                shape = {"ID": message.image.id, "References": list(message.image.references)}
                print_object(shape | {"Size": message.image.size_bytes}, form)
            else:
                click.echo(image)
    finally:
        progress.clear()


@click.command(cls=Command, examples=["flota image push registry:5000/shop/web:1.1"])
@click.option("-q", "--quiet", is_flag=True, help="Print the name and digest only.")
@click.argument("image", metavar="NAME[:TAG]", shell_complete=completing.images)
@talks
async def push(session: Session, image: str, quiet: bool) -> None:
    """Give an image of this node to the registry that its name leads to.

    With the credentials of `flota login` or `docker login`.
    """
    from flota.cli.registry_auth import credentials_for
    from flota.v1.local_pb2 import PushImageRequest

    request = PushImageRequest(reference=image, registry_auth=credentials_for(image))
    progress = Progress()
    try:
        async for message in session.agent.PushImage(request):
            if message.digest:
                progress.clear()
                click.echo(f"{image}@{message.digest}")
            elif not quiet:
                progress.show(message.line, message.current_bytes, message.total_bytes)
    finally:
        progress.clear()
