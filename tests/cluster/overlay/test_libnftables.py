"""libnftables in many threads: each has a copy of its own, each works in its own namespace."""

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flota.overlay import KernelRefused, libnftables, namespaces

THREADS = 4


def test_threads_do_not_share_the_librarys_variables(tmp_path: Path) -> None:
    begin = threading.Barrier(THREADS)

    def work(number: int) -> tuple[int | None, str]:
        home = namespaces.current()
        with namespaces.created(tmp_path / f"ns{number}", home):
            begin.wait(60)
            for version in range(10 * number + 10):
                libnftables.load(f"table ip t{number} {{ chain c{version} {{ }}; }}")
            listing = libnftables.load("list ruleset")
        namespaces.forget(tmp_path / f"ns{number}")
        return ctypes.cast(libnftables._library().nft_ctx_new, ctypes.c_void_p).value, listing

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(THREADS)))
    # The generation that the library compares with is a variable of each copy.
    assert len({address for address, _ in results}) == THREADS
    for number, (_, listing) in enumerate(results):
        assert listing.count("table") == 1
        assert listing.count("chain") == 10 * number + 10


def test_a_thread_that_comes_later_has_a_copy_too() -> None:
    """The number of the descriptor that the first one was loaded from is free again by then."""
    found: list[int | None] = []
    end = threading.Event()

    def work() -> None:
        found.append(ctypes.cast(libnftables._library().nft_ctx_new, ctypes.c_void_p).value)
        end.wait(60)

    threads = [threading.Thread(target=work) for _ in range(3)]
    try:
        for number, thread in enumerate(threads, 1):
            thread.start()
            while len(found) < number:
                time.sleep(0.001)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert len(set(found)) == 3


def test_refused_commands_are_told_in_its_words() -> None:
    with pytest.raises(KernelRefused, match="syntax error"):
        libnftables.load("add nonsense")
