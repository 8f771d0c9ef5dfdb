"""A root of a person's own: what will do, and what is said of everything else. Pure; the time is a parameter."""

import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from flota.rpc.errors import InvalidArgument

# So long it has to be good for, at least (SwarmKit's controlapi/ca_rotation.go).
SHORTEST_LIFE = datetime.timedelta(days=365)
CURVES = ("secp256r1", "secp384r1", "secp521r1")
SMALLEST_RSA = 2048
KEYS = f"ECDSA on P-256, P-384 or P-521, or RSA of {SMALLEST_RSA} bits or more, is needed"


def given_root(certificate_pem: bytes, key_pem: bytes, now: datetime.datetime) -> tuple[bytes, bytes]:
    """The root as we keep it: PEM of its certificate and of its key. Raises InvalidArgument."""
    if not (certificate_pem and key_pem):
        missing, there = ("key", "certificate") if certificate_pem else ("certificate", "key")
        raise _wrong(missing, f"it is missing, and the CA {there} is given: both are needed, or neither")
    certificate, key = _certificate(certificate_pem), _key(key_pem)
    _check_key(certificate.public_key(), "certificate", "its key")
    if certificate.public_key() != key.public_key():
        raise _wrong(
            "key", "it is not the key of the CA certificate: the one that the certificate was made with is needed"
        )
    _check_authority(certificate)
    _check_life(certificate, now)
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), plain


def _wrong(what: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid CA {what}: {why}")


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        hint = " (this is a private key)" if b"PRIVATE KEY-----" in pem else ""
        raise _wrong("certificate", f"it cannot be read{hint}: one X.509 certificate in PEM is needed") from None
    if len(certificates) > 1:
        raise _wrong("certificate", f"there are {len(certificates)} of them: the root alone is needed")
    return certificates[0]


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise _wrong(
            "key", "it is encrypted: a key in clear is needed (openssl pkey -in FILE takes a password off)"
        ) from None
    except Exception:  # noqa: BLE001 - what the library raises for bytes that are no key has no common base
        hint = " (this is a certificate)" if b"BEGIN CERTIFICATE-----" in pem else ""
        raise _wrong("key", f"it cannot be read{hint}: a private key in PEM is needed") from None
    _check_key(key.public_key(), "key", "it")
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return key


def _check_key(key: object, what: str, which: str) -> None:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in CURVES:
            return
        case ec.EllipticCurvePublicKey():
            kind = f"ECDSA on {key.curve.name}"
        case rsa.RSAPublicKey() if key.key_size >= SMALLEST_RSA:
            return
        case rsa.RSAPublicKey():
            kind = f"RSA of {key.key_size} bits"
        case _:
            kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
    raise _wrong(what, f"{which} is {kind}: {KEYS}")


def _check_authority(certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        constraints = None
    if constraints is None or not constraints.ca:
        raise _wrong("certificate", "it is not an authority's: basic constraints with CA:TRUE are needed")
    if constraints.path_length == 0:
        raise _wrong(
            "certificate",
            "it may sign no other authority (pathlen:0), as the next rotation needs: 1 or more, or none, is needed",
        )
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is not None and not usage.key_cert_sign:
        raise _wrong("certificate", "its key usage does not allow to sign certificates: keyCertSign is needed")
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise _wrong(
            "certificate", f"{certificate.issuer.rfc4514_string()!r} has signed it: a root, signed by itself, is needed"
        ) from None


def _check_life(certificate: x509.Certificate, now: datetime.datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin > now:
        raise _wrong(
            "certificate",
            f"it is good from {begin:%F %T} UTC on only, and now is {now:%F %T}: one that is good now is needed",
        )
    if end < now:
        raise _wrong(
            "certificate", f"it was good until {end:%F %T} UTC: one that is good for a year, at least, is needed"
        )
    if end < now + SHORTEST_LIFE:
        raise _wrong(
            "certificate", f"it is good until {end:%F %T} UTC only: one that is good for a year, at least, is needed"
        )
