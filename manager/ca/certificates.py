"""The cluster's certificates: the root, and what it signs for nodes (SwarmKit's ca package has the same lives).

Keys are ECDSA P-256. A node makes its own key and sends a request; what stands in the certificate is decided here.
"""

import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flota.rpc.errors import InvalidArgument
from flota.rpc.identity import MANAGER_OU, WORKER_OU
from flota.rpc.tokens import key_pem
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


def create_request() -> tuple[bytes, bytes]:
    """A node's new key and the request to sign it: PEM of the request and of the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM), key_pem(key)


class Signer:
    """Signs for nodes with the root's key."""

    def __init__(self, root_pem: bytes, root_key_pem: bytes) -> None:
        self.root_pem = root_pem
        self._root = x509.load_pem_x509_certificate(root_pem)
        key = serialization.load_pem_private_key(root_key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def sign(
        self,
        request_pem: bytes,
        node_id: str,
        role: "NodeRole.ValueType",
        cluster_id: str,
        life: datetime.timedelta = NODE_LIFE,
    ) -> bytes:
        """PEM of the node's certificate followed by the root. Raises InvalidArgument for a bad request."""
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
        return certificate.public_bytes(serialization.Encoding.PEM) + self.root_pem
