"""Join tokens: SWMTKN-1-<digest of the root certificate>-<secret>, and what both sides derive from the secret.

The secret is never sent. Managers and joiner derive the same P-256 key from it (HKDF, RFC 5869); managers trust
certificates signed by it for joining only (callers.py), the joiner signs itself one. So the TLS handshake proves that
the joiner knows the token, and the digest proves to the joiner that it speaks with the right cluster.
"""

import datetime
import hashlib
import re
import secrets
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from flota.rpc.errors import InvalidArgument
from flota.v1.ids import base36

PREFIX = "SWMTKN"
DIGEST_LENGTH = 50
SECRET_LENGTH = 25
# Order of the group of P-256 (SEC 2, section 2.4.2).
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_LEAF_LIFE = datetime.timedelta(hours=1)
# Clocks of joiner and managers may differ by this much.
_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class JoinToken:
    """A parsed token."""

    digest: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}-1-{self.digest}-{self.secret}"

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Read a token as a person typed it. Raises InvalidArgument that says which part is wrong."""
        parts = text.strip().split("-")
        if len(parts) != 4 or parts[0] != PREFIX:
            raise InvalidArgument(f"invalid join token: it must look like {PREFIX}-1-<digest>-<secret>")
        _, version, digest, secret = parts
        if version != "1":
            raise InvalidArgument(f"invalid join token: version {version!r} is not known, only 1 is")
        for name, part, length in (("digest", digest, DIGEST_LENGTH), ("secret", secret, SECRET_LENGTH)):
            if not re.fullmatch(rf"[0-9a-z]{{{length}}}", part):
                raise InvalidArgument(
                    f"invalid join token: its {name} has {len(part)} characters, {length} of 0-9 and a-z are needed"
                )
        return cls(digest, secret)

    @classmethod
    def make(cls, root_pem: bytes) -> "JoinToken":
        """A new token for the cluster with this root."""
        return cls(root_digest(root_pem), base36(secrets.randbits(128), SECRET_LENGTH))


def root_digest(root_pem: bytes) -> str:
    """sha256 of a certificate's DER form in base36, as tokens carry it."""
    der = x509.load_pem_x509_certificate(root_pem).public_bytes(serialization.Encoding.DER)
    return base36(int.from_bytes(hashlib.sha256(der).digest()), DIGEST_LENGTH)


def _join_key(token: JoinToken) -> ec.EllipticCurvePrivateKey:
    derived = HKDF(hashes.SHA256(), 48, salt=token.digest.encode(), info=b"flota join 1").derive(token.secret.encode())
    return ec.derive_private_key(int.from_bytes(derived) % (_ORDER - 1) + 1, ec.SECP256R1())


def _join_name(key: ec.EllipticCurvePrivateKey) -> x509.Name:
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"flota-join-{hashlib.sha256(public).hexdigest()[:24]}")])


def join_authority(token: JoinToken) -> bytes:
    """PEM of the certificate authority that managers trust for joiners with this token."""
    key = _join_key(token)
    name = _join_name(key)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=20 * 365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def joiner_certificate(token: JoinToken) -> tuple[bytes, bytes]:
    """PEM of a short-lived client certificate and its key, made by somebody who knows the token."""
    authority = _join_key(token)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flota-joiner")]))
        .issuer_name(_join_name(authority))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key_pem(key)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM (PKCS #8, not encrypted)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
