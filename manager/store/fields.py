"""A message that is read a few fields at a time: its bytes come in pieces, which are cut anywhere.

Only the outermost level is looked at. What repeats may be parsed in parts, one after the other, each a message of its
own (Protocol Buffers, "Encoding": concatenated messages merge); so a large one need never be in memory as a whole.
"""

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def whole_fields(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut between fields. Raises DecodeError when they end in the middle of one, or are no message."""
    rest = b""
    for piece in pieces:
        rest += piece
        end = _end_of_fields(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        raise DecodeError(f"the last {len(rest):,} bytes are not a whole field")


def _end_of_fields(data: bytes) -> int:
    """Where the last field that is whole ends."""
    end = 0
    while (tag := _varint(data, end)) is not None:
        kind, at = tag[0] & 7, tag[1]
        if kind == _BYTES:
            length = _varint(data, at)
            if length is None:
                break
            at = length[1] + length[0]
        elif kind == _VARINT:
            value = _varint(data, at)
            if value is None:
                break
            at = value[1]
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise DecodeError(f"a field of wire type {kind} is not known")
        if at > len(data):
            break
        end = at
    return end


def _varint(data: bytes, at: int) -> tuple[int, int] | None:
    """A number and where it ends; None when it is not all there."""
    value = 0
    for shift, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    if len(data) - at >= _LONGEST_VARINT:
        raise DecodeError(f"offset {at}: no number")
    return None
