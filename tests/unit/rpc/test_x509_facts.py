"""What is read of a certificate without a library is what the library reads."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as some

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.rpc import x509_facts
from flota.v1.types_pb2 import NodeRole

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
# The library takes at most 64 bytes.
WORDS = some.text(some.characters(exclude_categories=("C", "Z")), min_size=1, max_size=16)


def certificate(names: list[x509.NameAttribute]) -> x509.Certificate:
    name = x509.Name(names)
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 2**120 + 7, NOW, NOW + datetime.timedelta(1))
    return builder.sign(KEY, hashes.SHA256())


@settings(max_examples=30)
@given(WORDS, WORDS, WORDS)
def test_subject_and_public_key_are_those_the_library_reads(node: str, cluster: str, unit: str) -> None:
    made = certificate(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, node),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
        ]
    )
    facts = x509_facts.read(made.public_bytes(Encoding.PEM))
    assert facts.subject[x509_facts.COMMON_NAME] == node
    assert facts.subject[x509_facts.ORGANIZATIONAL_UNIT] == unit
    assert facts.subject[x509_facts.ORGANIZATION] == cluster
    assert facts.subject_der == made.subject.public_bytes()
    assert facts.public_key_der == made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_of_a_chain_the_first_certificate_is_read() -> None:
    root_pem, root_key = create_root()
    csr, _ = create_request()
    chain = Signer(root_pem, root_key).sign(csr, "n1", NodeRole.NODE_ROLE_MANAGER, "c1")
    facts = x509_facts.read(chain + root_pem)
    assert (facts.subject[x509_facts.COMMON_NAME], facts.subject[x509_facts.ORGANIZATION]) == ("n1", "c1")


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", b"\xff\xfe"])
def test_what_is_no_certificate_is_a_value_error(pem: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        x509_facts.read(pem)


def test_a_certificate_that_is_cut_off_is_a_value_error() -> None:
    whole = certificate([x509.NameAttribute(NameOID.COMMON_NAME, "n1")]).public_bytes(Encoding.PEM).decode().split("\n")
    for count in range(1, len(whole) - 2):
        with pytest.raises(ValueError, match=r"."):
            x509_facts.read("\n".join([*whole[:count], "-----END CERTIFICATE-----"]).encode())
