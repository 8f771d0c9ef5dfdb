"""`flota image load`, `import` and `save`: archives go to this node's worker and come from it part by part."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from flota.cli import completing
from flota.cli.content import open_file
from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.options import result_format_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.v1.local_pb2 import Image, ImportImageRequest, LoadImageRequest

_PART = 1 << 20


async def _parts(file: BinaryIO, path: str) -> AsyncIterator[bytes]:
    """The file's bytes, read in a thread: a pipe may keep us waiting."""
    import asyncio

    try:
        while part := await asyncio.to_thread(file.read, _PART):
            yield part
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}") from None


def _shape(image: Image) -> dict[str, object]:
    return {"ID": image.id, "References": list(image.references), "Size": image.size_bytes}


@click.command(
    cls=Command,
    examples=["flota image load -i shop.tar", "docker save shop/web:1.1 | flota image load"],
)
@click.option("-i", "--input", "path", default="-", metavar="FILE", help="The archive (standard input).")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@result_format_option
@talks
async def load(session: Session, path: str, quiet: bool, form: str | None) -> None:
    """Load images from a tar of an OCI layout or of `docker save`, plain or compressed."""
    from flota.v1.local_pb2 import LoadImageRequest

    file = open_file(path)

    async def requests() -> AsyncIterator[LoadImageRequest]:
        async for part in _parts(file, path):
            yield LoadImageRequest(data=part)

    try:
        answer = await session.agent.LoadImage(requests())
    finally:
        if path != "-":
            file.close()
    for image in answer.images if not quiet or form else ():
        if form:
            from flota.cli.output.objects import print_object

            print_object(_shape(image), form)
        elif image.references:
            for reference in image.references:
                click.echo(f"Loaded image: {reference}")
        else:
            click.echo(f"Loaded image ID: {image.id}")


@click.command(
    "import",
    cls=Command,
    examples=[
        "flota image import rootfs.tar.gz shop/base:1",
        "tar -C rootfs -c . | flota image import --change 'CMD [\"/bin/server\"]' - shop/base:1",
    ],
)
@click.option("-c", "--change", "changes", multiple=True, metavar="INSTRUCTION", help="As in a Dockerfile: CMD, ENV, …")
@click.option("--platform", metavar="OS/ARCH", help="What it runs on (this node's).")
@result_format_option
@click.argument("file")
@click.argument("reference", required=False, metavar="[NAME[:TAG]]", default="")
@talks
async def import_(
    session: Session, file: str, reference: str, changes: tuple[str, ...], platform: str | None, form: str | None
) -> None:
    """Make an image from FILE, a tar of a root file system (- is standard input), plain or compressed."""
    from flota.v1.local_pb2 import ImportImageRequest
    from flota.v1.types_pb2 import Platform

    options = ImportImageRequest.Options(reference=reference, changes=changes)
    if platform is not None:
        os_name, slash, architecture = platform.partition("/")
        if not os_name or not slash or not architecture:
            raise BadFlag(f"invalid --platform {platform!r}: OS/ARCH is needed, such as linux/amd64")
        options.platform.CopyFrom(Platform(os=os_name, architecture=architecture))
    opened = open_file(file)

    async def requests() -> AsyncIterator[ImportImageRequest]:
        yield ImportImageRequest(options=options)
        async for part in _parts(opened, file):
            yield ImportImageRequest(data=part)

    try:
        answer = await session.agent.ImportImage(requests())
    finally:
        if file != "-":
            opened.close()
    if form:
        from flota.cli.output.objects import print_object

        print_object(_shape(answer.image), form)
    else:
        click.echo(answer.image.id)


@click.command(
    cls=Command,
    examples=[
        "flota image save -o shop.tar shop/web:1.1 shop/api:1.1",
        "flota image save shop/web:1.1 | gzip >web.tgz",
    ],
)
@click.option("-o", "--output", "path", default="-", metavar="FILE", help="The archive (standard output).")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=completing.images)
@talks
async def save(session: Session, images: tuple[str, ...], path: str) -> None:
    """Write images to a tar that is an OCI layout and what `docker load` reads at once.

    Layers are byte for byte as they came. A FILE is there when all of it was written, or not at all.
    """
    from flota.v1.local_pb2 import SaveImageRequest

    if path == "-" and sys.stdout.isatty():
        raise CommandFailed("an archive is nothing for a terminal: use --output FILE, or a pipe", 2)
    answers = session.agent.SaveImage(SaveImageRequest(references=images))
    if path == "-":
        async for message in answers:
            sys.stdout.buffer.write(message.data)
        sys.stdout.buffer.flush()
        return
    with _whole(path) as file:
        async for message in answers:
            file.write(message.data)


@contextmanager
def _whole(path: str) -> Iterator[BinaryIO]:
    """A file that is there when the block has ended well, or not at all. Raises CommandFailed."""
    unfinished = Path(f"{path}.unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.rename(path)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
