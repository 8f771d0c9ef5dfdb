"""The images' part of the Agent service, over a real socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from flota.rpc.channels import local_channel
from flota.rpc.errors import FailedPrecondition, FlotaError, InvalidArgument, NotFound, error_from
from flota.rpc.servers import local_server
from flota.v1.local_pb2 import (
    ImportImageRequest,
    ListImagesRequest,
    LoadImageRequest,
    RemoveImageRequest,
)
from flota.v1.local_pb2_grpc import AgentServicer, AgentStub, add_AgentServicer_to_server
from flota.worker.images.calls import ImageCalls
from flota.worker.images.store import ImageStore
from tests.unit.images.making import MadeImage, docker_save, parts, tar

ONE = MadeImage([tar([("x", b"x")])])


class Agent(ImageCalls, AgentServicer):
    def __init__(self, store: ImageStore) -> None:
        self.image_store = store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    made = ImageStore(tmp_path / "images")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def agent(tmp_path: Path, store: ImageStore) -> AsyncIterator[AgentStub]:
    server = local_server(tmp_path / "socket")
    add_AgentServicer_to_server(Agent(store), server)
    await server.start()
    async with local_channel(f"unix://{tmp_path}/socket") as channel:
        yield AgentStub(channel)
    await server.stop(None)


async def loads(data: bytes) -> AsyncIterator[LoadImageRequest]:
    async for part in parts(data):
        yield LoadImageRequest(data=part)


async def imports(data: bytes, *options: ImportImageRequest.Options) -> AsyncIterator[ImportImageRequest]:
    for one in options:
        yield ImportImageRequest(options=one)
    async for part in parts(data):
        yield ImportImageRequest(data=part)


async def test_images_come_are_listed_and_go(agent: AgentStub) -> None:
    loaded = await agent.LoadImage(loads(docker_save([(ONE, ["web:1"])])))
    assert [one.id for one in loaded.images] == [ONE.id]
    options = ImportImageRequest.Options(reference="base:1", changes=["CMD x"])
    imported = await agent.ImportImage(imports(ONE.layers[0], options))
    listed = await agent.ListImages(ListImagesRequest())
    assert {one.id: list(one.references) for one in listed.images} == {
        ONE.id: ["web:1"],
        imported.image.id: ["base:1"],
    }
    removed = await agent.RemoveImage(RemoveImageRequest(reference="web:1"))
    assert (list(removed.untagged), removed.deleted[0]) == (["web:1"], ONE.id)


async def test_errors_are_typed(agent: AgentStub, store: ImageStore) -> None:
    await agent.LoadImage(loads(docker_save([(ONE, ["web:1"])])))
    store.hold("task1", ONE.id)
    calls: list[tuple[grpc.aio.Call, type[FlotaError], str]] = [
        (agent.LoadImage(loads(b"no archive")), InvalidArgument, "not a tar archive"),
        (agent.ImportImage(imports(b"x")), InvalidArgument, "options are missing: they come first"),
        (
            agent.ImportImage(imports(b"x", ImportImageRequest.Options(changes=["RUN x"]))),
            InvalidArgument,
            "invalid change 'RUN x'",
        ),
        (agent.RemoveImage(RemoveImageRequest(reference="nope")), NotFound, "no such image: nope"),
        (agent.RemoveImage(RemoveImageRequest(reference="web:1")), FailedPrecondition, "used by task task1"),
    ]
    for call, kind, text in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call  # type: ignore[misc]
        error = error_from(caught.value)
        assert type(error) is kind
        assert text in str(error)
