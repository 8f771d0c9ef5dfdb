"""The cluster's certificates: the root, and what it signs for nodes (SwarmKit's ca package has the same lives).

Keys that we make are ECDSA P-256; a root of a person's own may have another one (given.py). A node makes its own key
and sends a request; what stands in the certificate is decided here.
"""

import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flota.rpc.errors import InvalidArgument
from flota.rpc.identity import MANAGER_OU, WORKER_OU
from flota.rpc.tokens import key_pem
from flota.v1.objects_pb2 import RootCa
from flota.v1.types_pb2 import NodeRole

ROOT_LIFE = datetime.timedelta(days=20 * 365)
NODE_LIFE = datetime.timedelta(days=90)
MINIMUM_NODE_LIFE = datetime.timedelta(hours=1)
# Certificates are valid from an hour ago, for clocks that are behind.
BACKDATE = datetime.timedelta(hours=1)


def create_root(name: str = "swarm-ca") -> tuple[bytes, bytes]:
    """A new root: PEM of its certificate and of its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return certificate.public_bytes(serialization.Encoding.PEM), key_pem(key)


def cross_sign(root_pem: bytes, by_pem: bytes, by_key_pem: bytes) -> bytes:
    """PEM of a certificate with the name and key of a root, signed by another root: who trusts that one believes it."""
    root, by = x509.load_pem_x509_certificate(root_pem), x509.load_pem_x509_certificate(by_pem)
    now = datetime.datetime.now(datetime.UTC)
    by_key = _signing_key(by_key_pem)
    public_key = root.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(by.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(root.not_valid_after_utc, by.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by_key.public_key()), critical=False)
        .sign(by_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _signing_key(pem: bytes) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return key


def create_request() -> tuple[bytes, bytes]:
    """A node's new key and the request to sign it: PEM of the request and of the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM), key_pem(key)


class Signer:
    """Signs for nodes with the root's key."""

    def __init__(self, root_pem: bytes, root_key_pem: bytes, chain_pem: bytes | None = None) -> None:
        """`chain_pem` is what follows each certificate; the root, if it is not given."""
        self._chain_pem = root_pem if chain_pem is None else chain_pem
        self._root = x509.load_pem_x509_certificate(root_pem)
        self._key = _signing_key(root_key_pem)

    @classmethod
    def of(cls, root: RootCa) -> "Signer":
        """The one that signs for a cluster: its root or, while that is being replaced, the next one.

        Its certificates are believed by who trusts the root before, too, and their chain shows joiners the root that
        their token names.
        """
        if root.HasField("rotation"):
            coming = root.rotation
            chain = coming.cross_signed + coming.certificate
            if root.certificate != coming.certificate:
                chain += root.certificate
            return cls(coming.certificate, coming.private_key, chain)
        return cls(root.certificate, root.private_key, root.cross_signed + root.certificate)

    def sign(
        self,
        request_pem: bytes,
        node_id: str,
        role: "NodeRole.ValueType",
        cluster_id: str,
        life: datetime.timedelta = NODE_LIFE,
    ) -> bytes:
        """PEM of the node's certificate followed by its chain. Raises InvalidArgument for a bad request."""
        try:
            request = x509.load_pem_x509_csr(request_pem)
            if not request.is_signature_valid:
                raise InvalidSignature
            public_key = request.public_key()
        except (ValueError, InvalidSignature):
            raise InvalidArgument("invalid csr: not a correctly signed PEM certificate request") from None
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise InvalidArgument("invalid csr: its key must be an elliptic curve key (P-256)")
        unit = MANAGER_OU if role == NodeRole.NODE_ROLE_MANAGER else WORKER_OU
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(
                x509.Name(
                    [
                        x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
                        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
                        x509.NameAttribute(NameOID.COMMON_NAME, node_id),
                    ]
                )
            )
            .issuer_name(self._root.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + max(life, MINIMUM_NODE_LIFE))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(node_id), x509.DNSName(unit)]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + self._chain_pem
