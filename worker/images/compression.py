"""The plain bytes of something that may be compressed: gzip, zstd, xz or bzip2, told by how it begins.

What is read is never larger than what was asked for, however well it was compressed.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

_CHUNK = 256 << 10
LONGEST_MAGIC = 6


class Readable(Protocol):
    """Anything to read bytes from: at most `size` of them, none at the end."""

    def read(self, size: int, /) -> bytes: ...


class Damaged(Exception):
    """Compressed data that cannot be decompressed. The message is for people."""


def plain(source: Readable) -> Readable:
    """What `source` holds, decompressed; reading it may raise Damaged."""
    begin = b""
    while len(begin) < LONGEST_MAGIC and (more := source.read(LONGEST_MAGIC - len(begin))):
        begin += more
    whole = _Whole(begin, source)
    for magic, opener in _FORMATS:
        if begin.startswith(magic):
            return opener(whole)
    return whole


def is_compressed(begin: bytes) -> bool:
    """Whether something that begins like this is in a form that `plain` undoes."""
    return begin.startswith(tuple(magic for magic, _ in _FORMATS))


class _Whole:
    """A source whose beginning was read already."""

    def __init__(self, begin: bytes, rest: Readable) -> None:
        self._begin = begin
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        if self._begin:
            part, self._begin = self._begin[:size], self._begin[size:]
            return part
        return self._rest.read(size)


class _Decoder(Protocol):
    """How bz2 and lzma decompress one stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Inflate:
    """zlib's decoder in the words of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail and not self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        return self._zlib.decompress(data or self._zlib.unconsumed_tail, max_length)


class _Streams:
    """One compressed stream after the other, as gzip, xz and bzip2 allow; zeros at the end are padding."""

    def __init__(self, what: str, source: Readable, decoder: Callable[[], _Decoder]) -> None:
        self._what = what
        self._source = source
        self._new = decoder
        self._decoder = decoder()

    def read(self, size: int, /) -> bytes:
        try:
            while True:
                data = b""
                if self._decoder.eof:
                    data = (self._decoder.unused_data or self._source.read(_CHUNK)).lstrip(b"\0")
                    if not data:
                        return b""
                    self._decoder = self._new()
                elif self._decoder.needs_input:
                    data = self._source.read(_CHUNK)
                    if not data:
                        raise Damaged(f"the {self._what} data ends too early")
                result = self._decoder.decompress(data, size)
                if result:
                    return result
        except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            raise Damaged(f"the {self._what} data is damaged: {error}") from None


class _Zstd:
    """zstd, frame after frame."""

    def __init__(self, source: Readable) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._reader = zstandard.ZstdDecompressor().stream_reader(
            source,  # type: ignore[arg-type]  # it needs no more of it than read
            read_size=_CHUNK,
            read_across_frames=True,
        )

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except self._error as error:
            raise Damaged(f"the zstd data is damaged: {error}") from None


_FORMATS: tuple[tuple[bytes, Callable[[Readable], Readable]], ...] = (
    (b"\x1f\x8b", lambda source: _Streams("gzip", source, _Inflate)),
    (b"\x28\xb5\x2f\xfd", _Zstd),
    (b"\xfd7zXZ\x00", lambda source: _Streams("xz", source, lzma.LZMADecompressor)),
    (b"BZh", lambda source: _Streams("bzip2", source, bz2.BZ2Decompressor)),
)
