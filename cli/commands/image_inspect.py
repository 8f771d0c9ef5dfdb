"""`flota image inspect` and `tag`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.inspection import inspect_each
from flota.cli.lookup import Missing
from flota.cli.options import inspect_format_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.v1.local_pb2 import InspectImageResponse


@click.command(
    cls=Command,
    examples=["flota image inspect shop/web:1.1", "flota image inspect --format '{{.Config.Env}}' shop/web:1.1"],
)
@inspect_format_option
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=completing.images)
@talks
async def inspect(session: Session, images: tuple[str, ...], form: str | None) -> None:
    """Show images as JSON in the shape of Docker's API."""
    await inspect_each(session, images, _find, _shape, form)


async def _find(session: Session, reference: str) -> InspectImageResponse:
    import grpc

    from flota.v1.local_pb2 import InspectImageRequest

    try:
        return await session.agent.InspectImage(InspectImageRequest(reference=reference))
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise Missing(f"no such image: {reference}") from None
        raise


def _shape(found: InspectImageResponse) -> dict[str, Any]:
    """GET /images/{name}/json"""
    import json

    from flota.gateway.translation.words import iso_time

    image, document = found.image, json.loads(found.configuration)
    return {
        "Id": image.id,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.digests),
        "Created": document.get("created", ""),
        "Author": document.get("author", ""),
        "Architecture": document.get("architecture", ""),
        "Variant": document.get("variant", ""),
        "Os": document.get("os", ""),
        "Size": image.size_bytes,
        "Config": document.get("config") or {},
        "GraphDriver": {"Name": "overlay2", "Data": {"LowerDir": ":".join(reversed(found.layer_directories))}},
        "RootFS": {"Type": "layers", "Layers": document.get("rootfs", {}).get("diff_ids", [])},
        "Metadata": {"LastUsed": iso_time(found.last_used_at)},
        "Tasks": list(found.task_ids),
    }


@click.command(cls=Command, examples=["flota image tag shop/web:1.1 registry:5000/shop/web:1.1"])
@click.argument("source", metavar="IMAGE", shell_complete=completing.images)
@click.argument("target", metavar="NAME[:TAG]")
@talks
async def tag(session: Session, source: str, target: str) -> None:
    """Give an image one more name."""
    from flota.v1.local_pb2 import TagImageRequest

    await session.agent.TagImage(TagImageRequest(source=source, target=target))
