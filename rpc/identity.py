"""Who this node is: a directory with cert.pem (its certificate, then the root), key.pem and root.pem.

The daemon replaces the files when a certificate is renewed; the processes that use them look again (`reload`) whenever
they make a new connection. CN = node id, OU = swarm-manager or swarm-worker, O = cluster id (SwarmKit's ca package).
"""

import os
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from flota.v1.types_pb2 import NodeRole

MANAGER_OU = "swarm-manager"
WORKER_OU = "swarm-worker"


class Identity:
    """A node's certificate and key, as of the last look at the directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stamp: tuple[int, ...] = ()
        self.reload()

    def reload(self) -> bool:
        """Look whether the files were replaced; True when they were. Raises FileNotFoundError, ValueError."""
        paths = [self.directory / name for name in ("cert.pem", "key.pem", "root.pem")]
        stamp = tuple(path.stat().st_mtime_ns for path in paths)
        if stamp == self._stamp:
            return False
        self.certificate_pem, self.key_pem, self.root_pem = (path.read_bytes() for path in paths)
        self.certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        self.node_id = attribute(self.certificate, NameOID.COMMON_NAME)
        self.cluster_id = attribute(self.certificate, NameOID.ORGANIZATION_NAME)
        self.role = role_of(self.certificate)
        self._stamp = stamp
        return True

    @property
    def is_manager(self) -> bool:
        """The certificate says so."""
        return self.role == NodeRole.NODE_ROLE_MANAGER

    @staticmethod
    def store(directory: Path, certificate_pem: bytes, key_pem: bytes, root_pem: bytes) -> None:
        """Replace the files, each at once; the certificate last, since it is what `reload` trusts to be complete."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, data in (("root.pem", root_pem), ("key.pem", key_pem), ("cert.pem", certificate_pem)):
            unfinished = directory / f"{name}.new"
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(directory / name)
        folder = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def attribute(certificate: x509.Certificate, kind: x509.ObjectIdentifier) -> str:
    """The first value of a subject attribute; empty when there is none."""
    found = certificate.subject.get_attributes_for_oid(kind)
    return str(found[0].value) if found else ""


def role_of(certificate: x509.Certificate) -> "NodeRole.ValueType":
    """The role a node's certificate gives it. Raises ValueError when it names none."""
    unit = attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    if unit == MANAGER_OU:
        return NodeRole.NODE_ROLE_MANAGER
    if unit == WORKER_OU:
        return NodeRole.NODE_ROLE_WORKER
    raise ValueError(f"a node certificate's OU is {MANAGER_OU} or {WORKER_OU}, not {unit!r}")
