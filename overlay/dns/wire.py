"""The few bytes of DNS that answers from our own tables need. Pure.

A question is read and an answer written without building objects for every record: one node answers thousands a
second. Everything rarer (other servers' answers, reverse names, services) is dnslib's. Formats: RFC 1035, RFC 6891.
"""

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

A, PTR, SOA, AAAA, SRV, OPT, ANY = 1, 12, 6, 28, 33, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

# Answers without EDNS fit into this many bytes over UDP.
PLAIN_SIZE = 512
_LARGEST_UDP = 4096
_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `name` is in lower case without the last dot; `section` its bytes as they came (letter case kept).

    `limit` is the size in bytes an answer over UDP may have; `edns` whether the asker speaks EDNS.
    """

    id: int
    flags: int
    name: str
    kind: int
    section: bytes
    limit: int
    edns: bool


class Malformed(ValueError):
    """Not a question that can be answered; `reply` says so to the asker, None if there is nobody to tell."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("malformed DNS question")
        self.reply = reply


def parse(data: bytes) -> Question:
    """Read a query. Raises Malformed."""
    if len(data) < 12:
        raise Malformed(None)
    identifier, flags, questions, _answers, _authorities, additionals = _HEADER.unpack_from(data)
    if flags & _QR:
        raise Malformed(None)
    if flags & _OPCODE:
        raise Malformed(_HEADER.pack(identifier, _QR | (flags & (_OPCODE | _RD)) | NOTIMP, 0, 0, 0, 0))
    refusal = Malformed(_HEADER.pack(identifier, _QR | (flags & _RD) | FORMERR, 0, 0, 0, 0))
    if questions != 1:
        raise refusal
    labels = []
    offset = 12
    try:
        while length := data[offset]:
            if length > 63 or offset + length >= len(data):
                raise refusal
            labels.append(data[offset + 1 : offset + 1 + length])
            offset += 1 + length
        kind, _class = struct.unpack_from("!HH", data, offset + 1)
    except (IndexError, struct.error):
        raise refusal from None
    end = offset + 5
    limit, edns = PLAIN_SIZE, False
    # OPT, if it is there, is almost always the only additional record: root name, type, size.
    if additionals and len(data) >= end + 5 and data[end] == 0 and data[end + 1 : end + 3] == b"\x00\x29":
        edns = True
        limit = min(max(PLAIN_SIZE, int.from_bytes(data[end + 3 : end + 5], "big")), _LARGEST_UDP)
    name = b".".join(labels).decode("latin-1").lower()
    return Question(identifier, flags, name, kind, data[12:end], limit, edns)


def reply(question: Question, code: int = NOERROR, records: Sequence[bytes] = (), limit: int | None = None) -> bytes:
    """An answer of ours. Records that do not fit into `limit` bytes are left out, and the answer says so (TC)."""
    extra = b"\x00\x00\x29" + struct.pack("!HIH", _LARGEST_UDP, 0, 0) if question.edns else b""
    flags = _QR | _AA | _RA | (question.flags & _RD) | code
    count = len(records)
    if limit is not None:
        room = limit - 12 - len(question.section) - len(extra)
        for fits, record in enumerate(records):
            room -= len(record)
            if room < 0:
                flags |= _TC
                count = fits
                break
    header = _HEADER.pack(question.id, flags, 1, count, 0, 1 if question.edns else 0)
    return b"".join((header, question.section, *records[:count], extra))


def address_record(address: str, ttl: int) -> bytes:
    """A or AAAA for the name in the question (a pointer to it). `ttl` in seconds."""
    packed = ipaddress.ip_address(address).packed
    return b"\xc0\x0c" + _FIXED.pack(A if len(packed) == 4 else AAAA, IN, ttl, len(packed)) + packed


def name_record(name: str, ttl: int) -> bytes:
    """PTR for the name in the question. Labels longer than 63 bytes are cut."""
    encoded = encode_name(name)
    return b"\xc0\x0c" + _FIXED.pack(PTR, IN, ttl, len(encoded)) + encoded


def service_record(target: str, port: int, ttl: int) -> bytes:
    """SRV for the name in the question: one of several that are alike. Labels longer than 63 bytes are cut."""
    data = struct.pack("!HHH", 0, 1, port) + encode_name(target)
    return b"\xc0\x0c" + _FIXED.pack(SRV, IN, ttl, len(data)) + data


def encode_name(name: str) -> bytes:
    """A name in DNS's form, not compressed."""
    labels = [label.encode("latin-1", "replace")[:63] for label in name.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\x00"


def reverse_address(name: str) -> str | None:
    """The address a reverse name asks for: "5.1.0.10.in-addr.arpa" → "10.0.1.5"; None if it is no such name."""
    try:
        if name.endswith(".in-addr.arpa"):
            return str(ipaddress.IPv4Address(".".join(reversed(name[: -len(".in-addr.arpa")].split(".")))))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name[: -len(".ip6.arpa")].split(".")))
            return str(ipaddress.IPv6Address(bytes.fromhex(digits)))
    except ValueError:
        return None
    return None
