"""A pipe keeps order, is bounded, and ends from either side."""

import asyncio

import pytest

from flota.rpc.pipe import Pipe


async def test_what_is_written_is_read_in_order_and_then_it_ends() -> None:
    pipe: Pipe[int] = Pipe(2)

    async def write() -> None:
        for number in range(100):
            assert await pipe.put(number)
        pipe.end()

    writing = asyncio.create_task(write())
    assert [number async for number in pipe] == list(range(100))
    await writing


async def test_the_writer_waits_while_it_is_full() -> None:
    pipe: Pipe[int] = Pipe(2)
    await pipe.put(1)
    await pipe.put(2)
    third = asyncio.create_task(pipe.put(3))
    done, _ = await asyncio.wait((third,), timeout=0)
    assert not done
    reading = aiter(pipe)
    assert await anext(reading) == 1
    assert await third


async def test_nobody_waits_for_a_reader_who_has_gone() -> None:
    pipe: Pipe[int] = Pipe(1)
    await pipe.put(1)
    waiting = asyncio.create_task(pipe.put(2))
    closed = asyncio.create_task(pipe.wait_closed())
    await asyncio.sleep(0)
    pipe.close()
    assert not await waiting
    assert not await pipe.put(3)
    await closed


async def test_what_waits_is_read_before_the_error() -> None:
    pipe: Pipe[int] = Pipe()
    await pipe.put(1)
    pipe.end(ValueError("broke"))
    pipe.end()
    reading = aiter(pipe)
    assert await anext(reading) == 1
    with pytest.raises(ValueError, match="broke"):
        await anext(reading)
