"""/images and /distribution: the images of this machine, and what registries have."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from aiohttp import web

from flota.gateway.failures import HttpFailure, failure_of
from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.streams import Streaming, passed_on
from flota.gateway.translation import image as shapes
from flota.gateway.translation.words import parse_time
from flota.rpc.errors import InvalidArgument, Unsupported
from flota.v1.local_pb2 import (
    Image,
    ImportImageRequest,
    InspectImageRequest,
    InspectImageResponse,
    ListImagesRequest,
    LoadImageRequest,
    PruneImagesRequest,
    PullImageMessage,
    PullImageRequest,
    PushImageRequest,
    RemoveImageRequest,
    ResolveImageRequest,
    SaveImageRequest,
    TagImageRequest,
)

_CHUNK = 256 << 10


def reference_of(name: str, tag: str) -> str:
    """fromImage and tag of a query as one name; a digest may be the tag."""
    if not tag:
        return name
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"


async def ls(call: Call) -> web.StreamResponse:
    """All images that fulfil the filters."""
    wanted = call.filters("before", "dangling", "label", "reference", "since", "until")
    images = (await call.backend.agent.ListImages(ListImagesRequest())).images
    return answer([shapes.listed(image) for image in images if _passes(image, wanted)])


def _passes(image: Image, wanted: Filters) -> bool:
    dangling = wanted.flag("dangling")
    return (
        wanted.labels("label", image.labels)
        and (dangling is None or dangling == (not image.references))
        and shapes.matches(image, wanted.get("reference"))
    )


async def create(call: Call) -> web.StreamResponse:
    """Pull, with lines of progress; or import a root file system."""
    if not call.query("fromImage"):
        return await _import(call)
    reference = reference_of(call.query("fromImage"), call.query("tag"))
    request = PullImageRequest(reference=reference, registry_auth=call.registry_auth())
    pull = call.backend.agent.PullImage(request)
    messages: AsyncIterator[PullImageMessage] = aiter(pull)
    try:
        # Until the first one a refusal has its own status.
        told = await anext(messages, None)
        async with Streaming(call, "application/json", told=True) as out:
            while told is not None:
                if told.HasField("image"):
                    name = shapes.familiar(reference)
                    await out.line({"status": f"Status: Image is up to date for {name}"})
                elif told.line:
                    await out.line(shapes.progress(told.line, told.current_bytes, told.total_bytes))
                told = await anext(messages, None)
        return out.response
    finally:
        pull.cancel()


async def _import(call: Call) -> web.StreamResponse:
    """The body is a tar of a root file system."""
    if call.query("fromSrc") != "-":
        raise HttpFailure(501, "flota fetches no root file systems: give a file, or - for standard input")
    options = ImportImageRequest.Options(reference=reference_of(call.query("repo"), call.query("tag")))
    options.changes.extend(call.request.query.getall("changes", []))

    async def parts() -> AsyncIterator[ImportImageRequest]:
        yield ImportImageRequest(options=options)
        async for data in call.request.content.iter_chunked(_CHUNK):
            yield ImportImageRequest(data=data)

    made = await call.backend.agent.ImportImage(parts())
    async with Streaming(call, "application/json", told=True) as out:
        await out.line({"status": made.image.id})
    return out.response


async def inspect(call: Call) -> web.StreamResponse:
    """One image, with its configuration."""
    found = await _inspected(call)
    return answer(shapes.inspected(found.image, json.loads(found.configuration)))


async def _inspected(call: Call) -> InspectImageResponse:
    return await call.backend.agent.InspectImage(InspectImageRequest(reference=call.name("name")))


async def history(call: Call) -> web.StreamResponse:
    """How it was built, the newest step first."""
    found = await _inspected(call)
    return answer(shapes.history(found.image, json.loads(found.configuration), found.layer_bytes))


async def tag(call: Call) -> web.StreamResponse:
    """Another name for it."""
    target = reference_of(call.query("repo"), call.query("tag"))
    await call.backend.agent.TagImage(TagImageRequest(source=call.name("name"), target=target))
    return nothing(201)


async def push(call: Call) -> web.StreamResponse:
    """Give it to its registry, with lines of progress."""
    reference = reference_of(call.name("name"), call.query("tag"))
    request = PushImageRequest(reference=reference, registry_auth=call.registry_auth())
    going = call.backend.agent.PushImage(request)
    try:
        async with Streaming(call, "application/json", told=True) as out:
            async for told in going:
                if told.digest:
                    name = reference.rpartition(":")[2] if ":" in reference.rpartition("/")[2] else "latest"
                    await out.line({"progressDetail": {}, "aux": {"Tag": name, "Digest": told.digest, "Size": 0}})
                else:
                    await out.line(shapes.progress(told.line, told.current_bytes, told.total_bytes, "Pushing"))
        return out.response
    finally:
        going.cancel()


async def save(call: Call) -> web.StreamResponse:
    """One or several as a tar."""
    names = [call.name("name")] if "name" in call.request.match_info else call.request.query.getall("names", [])
    going = call.backend.agent.SaveImage(SaveImageRequest(references=names))
    return await passed_on(call, going, "application/x-tar")


async def prune(call: Call) -> web.StreamResponse:
    """Those that no task needs: without names, or with dangling=false all of them."""
    wanted = call.filters("dangling", "label", "label!", "until")
    request = PruneImagesRequest(all=wanted.flag("dangling") is False)
    request.labels.update({key: value for key, _, value in (one.partition("=") for one in wanted.get("label"))})
    for text in wanted.get("until"):
        try:
            request.until.CopyFrom(parse_time(text))
        except ValueError:
            raise InvalidArgument.of("filter until", text, "Unix seconds or RFC 3339 are needed") from None
    done = await call.backend.agent.PruneImages(request)
    gone = [{"Untagged": name} for name in done.untagged] + [{"Deleted": id} for id in done.deleted]
    return answer({"ImagesDeleted": gone or None, "SpaceReclaimed": done.reclaimed_bytes})


async def load(call: Call) -> web.StreamResponse:
    """The body is a tar of `docker save` or an OCI layout."""

    async def parts() -> AsyncIterator[LoadImageRequest]:
        async for data in call.request.content.iter_chunked(_CHUNK):
            yield LoadImageRequest(data=data)

    loaded = await call.backend.agent.LoadImage(parts())
    async with Streaming(call, "application/json", told=True) as out:
        for image in loaded.images:
            names = [f"Loaded image: {name}\n" for name in image.references] or [f"Loaded image ID: {image.id}\n"]
            for line in names:
                await out.line({"stream": line})
    return out.response


async def remove(call: Call) -> web.StreamResponse:
    """A name, and the image with its last one."""
    request = RemoveImageRequest(reference=call.name("name"), force=call.flag("force"))
    try:
        done = await call.backend.agent.RemoveImage(request)
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
            # In use: Docker's clients know it by its status.
            raise HttpFailure(409, str(failure_of(error))) from None
        raise
    return answer([{"Untagged": name} for name in done.untagged] + [{"Deleted": id} for id in done.deleted])


async def search(call: Call) -> web.StreamResponse:
    """Raises Unsupported."""
    raise Unsupported("flota searches no registry: look at its own pages for names, then docker pull")


async def distribution(call: Call) -> web.StreamResponse:
    """What a registry has under a name: digest and platforms."""
    request = ResolveImageRequest(reference=call.name("name"), registry_auth=call.registry_auth())
    found = await call.backend.agent.ResolveImage(request)
    return answer(
        {
            "Descriptor": {"mediaType": found.media_type, "digest": found.digest, "size": found.size_bytes},
            "Platforms": [{"architecture": each.architecture, "os": each.os} for each in found.platforms],
        }
    )


ROUTES: list[Route] = [
    ("GET", "/images/json", ls),
    ("GET", "/images/search", search),
    ("POST", "/images/create", create),
    ("POST", "/images/load", load),
    ("POST", "/images/prune", prune),
    ("GET", "/images/get", save),
    ("GET", "/images/{name:.+}/get", save),
    ("GET", "/images/{name:.+}/json", inspect),
    ("GET", "/images/{name:.+}/history", history),
    ("POST", "/images/{name:.+}/tag", tag),
    ("POST", "/images/{name:.+}/push", push),
    ("DELETE", "/images/{name:.+}", remove),
    ("GET", "/distribution/{name:.+}/json", distribution),
]
