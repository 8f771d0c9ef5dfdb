"""`flota image ls` and `rm`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from flota.cli import completing
from flota.cli.failures import CommandFailed
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.options import filter_option, format_option, no_trunc_option, quiet_option
from flota.cli.output.tables import Column, print_rows
from flota.cli.session import Session, talks
from flota.cli.several import for_each

if TYPE_CHECKING:
    from flota.v1.local_pb2 import Image

_FILTERS = ("reference", "label", "dangling")
_COLUMNS = (
    Column("Repository", "REPOSITORY"),
    Column("Tag", "TAG"),
    Column("ID", "IMAGE ID"),
    Column("CreatedSince", "CREATED"),
    Column("Size", "SIZE"),
)
_DIGEST = Column("Digest", "DIGEST")
_MORE = {"Digest": "DIGEST", "CreatedAt": "CREATED AT", "Platform": "PLATFORM"}
_NONE = "<none>"


@click.command(
    cls=Command,
    examples=[
        "flota image ls",
        "flota image ls --filter 'reference=shop/*'",
        "flota image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
    ],
)
@click.option("-a", "--all", "_everything", is_flag=True, help="Only for Docker's sake: all are shown.", hidden=True)
@click.option("--digests", is_flag=True, help="Show digests, too.")
@filter_option(*_FILTERS)
@format_option
@no_trunc_option
@quiet_option()
@click.argument("reference", required=False, metavar="[NAME[:TAG]]", shell_complete=completing.images)
@talks
async def ls(
    session: Session,
    reference: str | None,
    filters: tuple[str, ...],
    form: str | None,
    no_trunc: bool,
    quiet: bool,
    digests: bool,
    _everything: bool,
) -> None:
    """List the images on this node."""
    wanted = Filters([*filters, *([f"reference={reference}"] if reference else [])], _FILTERS)
    wanted.one_of("dangling", ("true", "false"))
    from flota.v1.local_pb2 import ListImagesRequest

    answer = await session.agent.ListImages(ListImagesRequest())
    images = sorted(answer.images, key=lambda image: image.created_at.ToNanoseconds(), reverse=True)
    rows = [row for image in images if _passes(image, wanted) for row in _rows(image, wanted, no_trunc)]
    if quiet and not form:
        for shown in dict.fromkeys(row["ID"] for row in rows):
            click.echo(shown)
        return
    columns = (*_COLUMNS[:2], _DIGEST, *_COLUMNS[2:]) if digests else _COLUMNS
    print_rows(columns, rows, form, more_headers=_MORE)


def _passes(image: Image, wanted: Filters) -> bool:
    dangling = "false" if image.references else "true"
    return wanted.labels("label", image.labels) and wanted.equals("dangling", dangling)


def _rows(image: Image, wanted: Filters, no_trunc: bool) -> Iterator[dict[str, str]]:
    """One row for each name that passes the filters."""
    from fnmatch import fnmatchcase

    from flota.cli.output.human import decimal_size, since
    from flota.gateway.translation.words import iso_time

    patterns = wanted.get("reference")
    digest = image.digests[0].rpartition("@")[2] if image.digests else _NONE
    for reference in image.references or [""]:
        repository, tag = _parts(reference)
        if patterns and not any(fnmatchcase(text, each) for each in patterns for text in (repository, reference)):
            continue
        yield {
            "Repository": repository or _NONE,
            "Tag": tag or _NONE,
            "ID": image.id if no_trunc else image.id.removeprefix("sha256:")[:12],
            "CreatedSince": since(image.created_at) if image.HasField("created_at") else "N/A",
            "Size": decimal_size(image.size_bytes),
            "Digest": digest,
            "CreatedAt": iso_time(image.created_at) if image.HasField("created_at") else "",
            "Platform": f"{image.platform.os}/{image.platform.architecture}",
        }


def _parts(reference: str) -> tuple[str, str]:
    """Name and tag; a colon before the last slash belongs to a registry's port."""
    folder, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return folder + slash + name, tag


@click.command(cls=Command, examples=["flota image rm shop/web:1.1", "flota image rm --force 2f1a6c0d"])
@click.option("-f", "--force", is_flag=True, help="Also an image with several names, or one that tasks use.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=completing.images)
@talks
async def rm(session: Session, images: tuple[str, ...], force: bool) -> None:
    """Remove names of images, and images that have no name left."""
    import grpc

    from flota.v1.local_pb2 import RemoveImageRequest

    async def remove(reference: str) -> str:
        try:
            answer = await session.agent.RemoveImage(RemoveImageRequest(reference=reference, force=force))
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise CommandFailed(f"no such image: {reference}") from None
            raise
        return "\n".join(
            [*(f"Untagged: {each}" for each in answer.untagged), *(f"Deleted: {each}" for each in answer.deleted)]
        )

    await for_each(session, images, remove)
