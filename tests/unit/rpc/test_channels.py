"""Channels to processes of this machine."""

import asyncio
from pathlib import Path

from flota.rpc.channels import local_channel
from flota.rpc.servers import local_server
from flota.v1.local_pb2 import InfoRequest, InfoResponse
from flota.v1.local_pb2_grpc import LocalServicer, LocalStub, add_LocalServicer_to_server

# Seconds; more than a connection to another machine is given.
BUSY = 3.5


class Local(LocalServicer):
    async def Info(self, request: InfoRequest, context: object) -> InfoResponse:
        return InfoResponse(node_id="here")


async def test_a_process_that_has_to_wait_for_a_processor_is_waited_for(tmp_path: Path) -> None:
    """It listens, so it is there; that it has not said a word yet is no reason to call it unreachable."""
    server = local_server(tmp_path / "server")
    add_LocalServicer_to_server(Local(), server)  # type: ignore[no-untyped-call]
    await server.start()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(BUSY)
        there, back = await asyncio.open_unix_connection(tmp_path / "server")
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    busy = await asyncio.start_unix_server(serve, tmp_path / "busy")
    try:
        async with local_channel(f"unix://{tmp_path}/busy") as channel:
            assert (await LocalStub(channel).Info(InfoRequest(), timeout=60)).node_id == "here"
    finally:
        busy.close()
        await server.stop(0)
