"""Blobs on their way: what stays, and what goes."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flota.worker.images.registry.arriving import Arrivals
from tests.unit.images.making import sha256

ONE, TWO = b"one" * 1000, b"two" * 1000


@pytest.fixture
def arrivals(tmp_path: Path) -> Iterator[Arrivals]:
    with ThreadPoolExecutor(2) as threads:
        made = Arrivals(tmp_path / "partial", threads)
        made.open()
        yield made


async def test_what_came_earlier_counts(arrivals: Arrivals) -> None:
    digest = sha256(ONE)
    arrivals.hold([digest])
    async with arrivals.writing(digest) as part:
        part.append(ONE[:1000])
    await arrivals.release([digest], keep=True)
    arrivals.hold([digest])
    async with arrivals.writing(digest) as part:
        assert part.size == 1000
        part.append(ONE[1000:])
        assert (part.size, part.digest) == (len(ONE), digest)
        await part.empty()
        assert (part.size, part.digest) == (0, sha256(b""))
    await arrivals.release([digest], keep=False)
    assert not arrivals.path(digest).exists()


async def test_it_stays_as_long_as_somebody_needs_it(arrivals: Arrivals) -> None:
    digest = sha256(ONE)
    arrivals.path(digest).write_bytes(ONE)
    arrivals.hold([digest])
    arrivals.hold([digest])
    arrivals.prove(digest)
    await arrivals.release([digest], keep=False)
    assert arrivals.proved(digest)
    assert arrivals.path(digest).exists()
    assert await arrivals.collect(0) == 0
    await arrivals.release([digest], keep=True)
    # What another one makes of it later is not known.
    arrivals.hold([digest])
    assert not arrivals.proved(digest)


async def test_what_nobody_came_back_for_goes_by_age(arrivals: Arrivals) -> None:
    old, new = arrivals.path(sha256(ONE)), arrivals.path(sha256(TWO))
    old.write_bytes(ONE)
    new.write_bytes(TWO)
    rubbish = old.with_name("gone-1234")
    rubbish.write_bytes(b"deleted half")
    then = time.time() - 100
    os.utime(old, (then, then))
    assert await arrivals.collect(50) == len(ONE) + len(b"deleted half")
    assert os.listdir(old.parent) == [new.name]
    assert await arrivals.collect(0) == len(TWO)
