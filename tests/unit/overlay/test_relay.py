"""Passing on: every byte and each side's end, however slowly the other side takes them."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from flota.overlay.relay import Stream, relay

SMALL = 4096


class Ends:
    """A client and a program, as this side of each connection (`client`, `program`) and as the other side's socket."""

    def __init__(self, client: Stream, program: Stream, far_client: socket.socket, far_program: socket.socket) -> None:
        self.client, self.program = client, program
        self.far_client, self.far_program = far_client, far_program

    async def read(self, far: socket.socket, count: int = 0) -> bytes:
        """What arrives at the other side: `count` bytes, or everything until the end."""
        loop, found = asyncio.get_running_loop(), b""
        while (not count or len(found) < count) and (data := await loop.sock_recv(far, 65536)):
            found += data
        return found


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    pairs = [socket.socketpair() for _ in range(2)]
    for one in (one for pair in pairs for one in pair):
        one.setblocking(False)
        # What does not fit stays with the writer.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    streams = [Stream(*await asyncio.open_connection(sock=near)) for near, _ in pairs]
    yield Ends(*streams, *(far for _, far in pairs))
    for stream in streams:
        stream.writer.close()
    for _, far in pairs:
        far.close()


async def turns(count: int = 100) -> None:
    """Let everything happen that can: nothing in these tests waits for a time."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_client_that_has_not_read_the_last_of_an_answer_gets_it(ends: Ends) -> None:
    """The program has ended, and so has the client's own half: the rest of the answer is with us alone."""
    answer = bytes(range(256)) * 128
    relaying = asyncio.create_task(relay(ends.client, ends.program, b""))
    ends.far_client.shutdown(socket.SHUT_WR)
    assert await ends.read(ends.far_program) == b""
    await asyncio.get_running_loop().sock_sendall(ends.far_program, answer)
    ends.far_program.shutdown(socket.SHUT_WR)
    await turns()
    assert ends.program.reader.at_eof(), "all of the answer has been passed on"
    assert ends.client.writer.transport.get_write_buffer_size(), "the client has not taken all of it"
    assert await ends.read(ends.far_client) == answer
    await relaying


async def test_a_program_answers_whom_it_has_heard_to_the_end(ends: Ends) -> None:
    relaying = asyncio.create_task(relay(ends.client, ends.program, b"PROXY "))
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(ends.far_client, b"question")
    ends.far_client.shutdown(socket.SHUT_WR)
    assert await ends.read(ends.far_program) == b"PROXY question"
    await loop.sock_sendall(ends.far_program, b"answer")
    assert await ends.read(ends.far_client, 6) == b"answer"
    assert not relaying.done()
    ends.far_program.close()
    assert await ends.read(ends.far_client) == b""
    await relaying


async def test_whoever_ends_it_closes_both(ends: Ends) -> None:
    relaying = asyncio.create_task(relay(ends.client, ends.program, b"PROXY "))
    assert await ends.read(ends.far_program, 6) == b"PROXY "
    relaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await relaying
    assert await ends.read(ends.far_program) == b""
    assert await ends.read(ends.far_client) == b""
