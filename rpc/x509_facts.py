"""What a certificate of our own says, read without a cryptographic library: its subject and its public key.

A process that only shows its certificate to others need not load one (9 MiB, measured). Nothing is verified here: it is
for files that this machine keeps, never for what a peer sends (callers.py). The structure is RFC 5280, section 4.1, in
the encoding of X.690 (DER).
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from flota.v1.objects_pb2 import TlsInfo

COMMON_NAME = bytes.fromhex("550403")
ORGANIZATION = bytes.fromhex("55040a")
ORGANIZATIONAL_UNIT = bytes.fromhex("55040b")

_END = "-----END CERTIFICATE-----"
_EXPLICIT_VERSION = 0xA0
_LONG_LENGTH = 0x80
# serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo.
_SUBJECT, _PUBLIC_KEY, _FIELDS = 4, 5, 6


@dataclass(frozen=True)
class CertificateFacts:
    """`subject_der` and `public_key_der` (SubjectPublicKeyInfo) are as they stand in the certificate."""

    subject: dict[bytes, str]
    subject_der: bytes
    public_key_der: bytes


@dataclass(frozen=True)
class _Element:
    tag: int
    content: bytes
    whole: bytes


def read(pem: bytes) -> CertificateFacts:
    """Of the first certificate in `pem`. Raises ValueError."""
    first, end, _ = pem.decode("ascii", errors="replace").partition(_END)
    (certificate,) = _elements(ssl.PEM_cert_to_DER_cert(f"{first}{end}"))
    signed = next(_elements(certificate.content), None)
    fields = [one for one in _elements(signed.content if signed else b"") if one.tag != _EXPLICIT_VERSION]
    if len(fields) < _FIELDS:
        raise ValueError("this is no X.509 certificate")
    subject, public_key = fields[_SUBJECT], fields[_PUBLIC_KEY]
    return CertificateFacts(_attributes(subject.content), subject.whole, public_key.whole)


def read_issuer(chain_pem: bytes) -> CertificateFacts:
    """Of the second certificate in `chain_pem`, which has signed the first. Raises ValueError."""
    return read(chain_pem.partition(_END.encode())[2].lstrip())


def is_issuer(root_pem: bytes, told: TlsInfo) -> bool:
    """Whether the root is the one that has signed a node's certificate, as the node itself says."""
    issuer = read(root_pem)
    return (told.issuer_subject, told.issuer_public_key) == (issuer.subject_der, issuer.public_key_der)


def _attributes(name: bytes) -> dict[bytes, str]:
    """The first value of each kind."""
    found: dict[bytes, str] = {}
    for relative_name in _elements(name):
        for attribute in _elements(relative_name.content):
            kind, value = _elements(attribute.content)
            found.setdefault(kind.content, value.content.decode())
    return found


def _elements(data: bytes) -> Iterator[_Element]:
    """The elements that stand one after the other. Raises ValueError when one is cut off."""
    at = 0
    while at < len(data):
        begin = at
        tag, length = data[at], data[at + 1] if at + 1 < len(data) else -1
        at += 2
        if length & _LONG_LENGTH and length > 0:
            octets = length & ~_LONG_LENGTH
            length = int.from_bytes(data[at : at + octets])
            at += octets
        at += length
        if length < 0 or at > len(data):
            raise ValueError("a certificate is cut off")
        yield _Element(tag, data[at - length : at], data[begin:at])
