"""This person's terminal while another one is shown in it: raw, with its size told on, and put back however it ends.

Also how standard input is read without holding up anything, and the keys that mean "leave it running".
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from flota.cli.failures import BadFlag

DETACH_KEYS = "ctrl-p,ctrl-q"
_PIECE = 16 << 10
_CONTROL = {f"ctrl-{chr(code + 96)}": code for code in range(1, 27)} | {
    "ctrl-@": 0,
    "ctrl-[": 27,
    "ctrl-\\": 28,
    "ctrl-]": 29,
    "ctrl-^": 30,
    "ctrl-_": 31,
}


def detach_keys(text: str) -> bytes:
    """ "ctrl-p,ctrl-q" as the bytes a terminal sends; empty = none. Raises BadFlag."""
    keys = bytearray()
    for word in filter(None, text.split(",")):
        if word.lower() in _CONTROL:
            keys.append(_CONTROL[word.lower()])
        elif len(word) == 1 and word.isascii():
            keys.append(ord(word))
        else:
            raise BadFlag(
                f"invalid --detach-keys {text!r}: keys joined by commas are needed, each a character or ctrl- and one "
                "of a-z @ [ \\ ] ^ _"
            )
    return bytes(keys)


class Detaching:
    """Finds the keys in what a person types; what may be their beginning is held back until it is clear."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to send on, and whether the keys were pressed (what follows them is dropped)."""
        if not self._keys:
            return data, False
        data = self._held + data
        self._held = b""
        place = data.find(self._keys)
        if place >= 0:
            return data[:place], True
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length], False
        return data, False


def size() -> tuple[int, int]:
    """Rows and columns; zeros when there is no terminal."""
    for descriptor in (sys.stdout.fileno(), sys.stdin.fileno()):
        try:
            columns, rows = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return rows, columns
    return 0, 0


@contextmanager
def raw() -> Iterator[None]:
    """Standard input's terminal, if it is one, hands on every key as it is; at the end it is as it was."""
    descriptor = sys.stdin.fileno()
    if not os.isatty(descriptor):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def signals(handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """These are called on the event loop when the signals come."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def typed() -> AsyncIterator[bytes]:
    """Standard input until its end, whatever kind of file it is; no more is read ahead than one piece.

    A thread reads it, because files have no readiness; it ends with the process.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    wanted = threading.Semaphore(1)
    descriptor = sys.stdin.fileno()

    def read() -> None:
        while True:
            wanted.acquire()
            try:
                data = os.read(descriptor, _PIECE)
            except OSError:
                data = b""
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, data)
            except RuntimeError:
                # The loop is closed: nobody is interested any more.
                return
            if not data:
                return

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while data := await pieces.get():
        yield data
        wanted.release()
