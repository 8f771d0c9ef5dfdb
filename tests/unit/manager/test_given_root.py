"""What a person may give as the root, and what is said of everything else."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from flota.manager.ca import rotation
from flota.manager.ca.certificates import create_root
from flota.manager.ca.given import given_root
from flota.rpc.errors import InvalidArgument
from flota.v1.specs_pb2 import CaConfig
from tests.unit.manager.test_root_rotation import meet, new_root, node_of

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
P256 = ec.generate_private_key(ec.SECP256R1())
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def pem_of(key: Key, password: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def root(
    key: Key = P256, *, days: tuple[int, int] = (-1, 3650), ca: bool = True, path_length: int | None = None,
    signs: bool = True, issuer: Key | None = None, now: datetime.datetime = NOW,
) -> bytes:  # fmt: skip
    """PEM of a certificate like that."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ours")])
    theirs = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "theirs")])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(theirs if issuer else name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
    )
    by = issuer or key
    algorithm = None if isinstance(by, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(by, algorithm).public_bytes(serialization.Encoding.PEM)


def refused(certificate: bytes, key: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        given_root(certificate, key, NOW)


def test_what_is_no_root_is_refused_in_words_that_name_what_is_needed() -> None:
    key, certificate = pem_of(P256), root()
    other = ec.generate_private_key(ec.SECP256R1())
    refused(certificate, b"", "invalid CA key: it is missing, and the CA certificate is given: both are needed")
    refused(b"", key, "invalid CA certificate: it is missing, and the CA key is given: both are needed")
    refused(b"nonsense", key, "invalid CA certificate: it cannot be read: one X.509 certificate in PEM is needed")
    refused(key, certificate, r"invalid CA certificate: it cannot be read \(this is a private key\)")
    refused(certificate, certificate, r"invalid CA key: it cannot be read \(this is a certificate\)")
    refused(certificate, b"nonsense", "invalid CA key: it cannot be read: a private key in PEM is needed")
    refused(certificate, pem_of(P256, b"secret"), "invalid CA key: it is encrypted: a key in clear is needed")
    refused(certificate + certificate, key, "invalid CA certificate: there are 2 of them: the root alone is needed")
    refused(certificate, pem_of(other), "invalid CA key: it is not the key of the CA certificate")
    refused(root(ca=False), key, "invalid CA certificate: it is not an authority's: .* CA:TRUE are needed")
    refused(root(path_length=0), key, r"invalid CA certificate: it may sign no other authority \(pathlen:0\)")
    refused(root(signs=False), key, "invalid CA certificate: .*keyCertSign is needed")
    refused(root(issuer=other), key, "invalid CA certificate: 'CN=theirs' has signed it: a root, signed by itself, is")


def test_a_root_has_to_be_good_now_and_for_a_year() -> None:
    key = pem_of(P256)
    refused(root(days=(1, 3650)), key, "it is good from 2026-06-02 00:00:00 UTC on only, and now is 2026-06-01")
    refused(root(days=(-20, -1)), key, "it was good until 2026-05-31 00:00:00 UTC: one that is good for a year")
    refused(root(days=(-20, 364)), key, "it is good until 2027-05-31 00:00:00 UTC only: one that is good for a year")
    lasting = root(days=(-20, 365))
    assert given_root(lasting, key, NOW) == (lasting, key)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (rsa.generate_private_key(65537, 1024), "RSA of 1024 bits"),
        (ec.generate_private_key(ec.SECP192R1()), "ECDSA on secp192r1"),
        (ec.generate_private_key(ec.SECP256K1()), "ECDSA on secp256k1"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    ],
)
def test_a_weak_key_or_one_that_nodes_cannot_check_is_refused(key: Key, words: str) -> None:
    needed = "ECDSA on P-256, P-384 or P-521, or RSA of 2048 bits or more, is needed"
    refused(root(key), pem_of(key), f"invalid CA key: it is {words}: {needed}")
    refused(root(key), pem_of(P256), f"invalid CA certificate: its key is {words}: {needed}")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
    ],
)
async def test_nodes_believe_each_other_by_a_root_with_any_key_that_is_taken(key: Key) -> None:
    now = datetime.datetime.now(datetime.UTC)
    stored, theirs = new_root(), root(key, now=now)
    trusted, old = stored.certificate, node_of(stored)
    rotation.begin(stored, CaConfig(signing_certificate=theirs, signing_key=pem_of(key)), now)
    coming, during = stored.rotation.certificate, node_of(stored)
    assert await meet(old, trusted + coming, during, trusted)
    rotation.finish(stored)
    after = node_of(stored)
    assert await meet(after, coming, during, coming)
    # And from it to the next one.
    rotation.begin(stored, CaConfig(), now)
    assert await meet(after, coming + stored.rotation.certificate, node_of(stored), coming)


def test_a_root_as_flota_makes_it_will_do() -> None:
    certificate, key = create_root()
    assert given_root(certificate, key, datetime.datetime.now(datetime.UTC)) == (certificate, key)
