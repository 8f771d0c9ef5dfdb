"""Tags become digests before a service is made or changed, so that all of its nodes run the same image, whenever they
pull it: what Docker's client does (QueryRegistry).

This machine's worker asks the registry. An image that was loaded here by hand, so that no registry may have it, keeps
its tag; so does one whose registry cannot be asked, with Docker's warning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.image_references import ImageReference
    from flota.v1.objects_pb2 import Service
    from flota.v1.specs_pb2 import ServiceSpec

# Seconds for one registry.
_LIMIT = 10.0
# Asked at the same time.
_AT_ONCE = 4


class _NotPinned(Exception):
    """The message is for people."""


async def pin(session: Session, spec: ServiceSpec) -> list[str]:
    """Give the service's image its digest; warnings."""
    try:
        spec.task.container.image = await _pinned(session, spec.task.container.image)
    except _NotPinned as failure:
        return [str(failure)]
    return []


async def pin_all(
    session: Session, specs: Iterable[ServiceSpec], there: Mapping[str, Service], resolve_image: str
) -> list[str]:
    """The same for a stack's services; `there` are those it has. `resolve_image` is always, changed or never; warnings.

    What cannot be asked for again stays as it was resolved before, if the file says nothing new.
    """
    from flota.stacks.translation.names import IMAGE

    wanted: dict[str, list[ServiceSpec]] = {}
    known: dict[str, str] = {}
    for spec in specs:
        stored = there.get(spec.annotations.name)
        image = spec.task.container.image
        same = stored is not None and stored.spec.annotations.labels.get(IMAGE) == image
        if resolve_image == "always" or (resolve_image == "changed" and not same):
            wanted.setdefault(image, []).append(spec)
            if same and stored is not None:
                known[image] = stored.spec.task.container.image
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(image: str) -> str:
        async with turns:
            try:
                found, warning = await _pinned(session, image), ""
            except _NotPinned as failure:
                found, warning = known.get(image, image), str(failure)
        for spec in wanted[image]:
            spec.task.container.image = found
        return warning

    return [warning for warning in await asyncio.gather(*map(one, wanted)) if warning]


async def _pinned(session: Session, image: str) -> str:
    """NAME:TAG@DIGEST. Raises _NotPinned, CommandFailed (credentials)."""
    import grpc

    from flota.cli.registry_auth import credentials_for
    from flota.v1.image_references import ImageReference
    from flota.v1.local_pb2 import ResolveImageRequest

    try:
        name = ImageReference.parse(image).tagged()
    except ValueError:
        # The managers say what is wrong with it.
        return image
    if name.digest or await _was_loaded(session, name):
        return image
    request = ResolveImageRequest(reference=image, registry_auth=credentials_for(image))
    try:
        digest = (await session.agent.ResolveImage(request, timeout=_LIMIT)).digest
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            # A daemon that is older than this command.
            return image
        raise _NotPinned(
            f"image {image} could not be accessed on a registry to record its digest: each node will access it "
            "independently, possibly leading to different nodes running different versions of the image "
            f"({_reason(error)})"
        ) from None
    return f"{name.familiar}@{digest}"


async def _was_loaded(session: Session, name: ImageReference) -> bool:
    """Whether this machine has the image, and not from its registry."""
    import grpc

    from flota.v1.local_pb2 import InspectImageRequest

    try:
        image = (await session.agent.InspectImage(InspectImageRequest(reference=name.familiar))).image
    except grpc.aio.AioRpcError:
        return False
    return not any(digest.startswith(f"{name.familiar_name}@") for digest in image.digests)


def _reason(error: object) -> str:
    import grpc

    assert isinstance(error, grpc.aio.AioRpcError)
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"its registry did not answer within {_LIMIT:g} s"
    return error.details() or error.code().name
