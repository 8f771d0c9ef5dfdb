"""Keys that leave a command running."""

import pytest

from flota.cli.failures import BadFlag
from flota.cli.terminal import DETACH_KEYS, Detaching, detach_keys


def test_keys_as_people_write_them() -> None:
    assert detach_keys(DETACH_KEYS) == b"\x10\x11"
    assert detach_keys("ctrl-@,a,Ctrl-],~") == b"\x00a\x1d~"
    assert detach_keys("") == b""
    for bad in ("ctrl-", "ctrl-1", "ab", "ctrl-p,é"):
        with pytest.raises(BadFlag, match="invalid --detach-keys"):
            detach_keys(bad)


def typed(*pieces: bytes, keys: bytes = b"\x10\x11") -> tuple[bytes, bool]:
    detaching, sent = Detaching(keys), b""
    for piece in pieces:
        data, leave = detaching.feed(piece)
        sent += data
        if leave:
            return sent, True
    return sent, False


def test_they_are_found_however_they_come() -> None:
    assert typed(b"ls\r\x10\x11rest") == (b"ls\r", True)
    assert typed(b"ls\r", b"\x10", b"\x11") == (b"ls\r", True)


def test_what_only_begins_like_them_is_sent_on() -> None:
    assert typed(b"\x10", b"a", b"\x11") == (b"\x10a\x11", False)
    assert typed(b"\x10\x10\x11") == (b"\x10", True)
    assert typed(b"a\x10b") == (b"a\x10b", False)
    assert typed(b"\x10\x11", keys=b"") == (b"\x10\x11", False)
