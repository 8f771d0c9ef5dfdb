"""Who this node is: a directory with cert.pem (its certificate, then the root), key.pem and root.pem.

The daemon replaces the files when a certificate is renewed; the processes that use them look again (`reload`) whenever
they make a new connection. cert.pem is replaced last: what it says is so only once the others are there, too, and a
replacement that lost power in between is finished by `finish`. CN = node id, OU = swarm-manager or swarm-worker,
O = cluster id (SwarmKit's ca package).
"""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flota.rpc import x509_facts
from flota.v1.types_pb2 import NodeRole

if TYPE_CHECKING:
    from cryptography import x509

MANAGER_OU = "swarm-manager"
WORKER_OU = "swarm-worker"
_CERTIFICATE = "cert.pem"
# In the order in which they are replaced.
_FILES = ("root.pem", "key.pem", _CERTIFICATE)


class Identity:
    """A node's certificate and key, as of the last look at the directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stamp: tuple[int, ...] = ()
        self.reload()

    def reload(self) -> bool:
        """Look whether the files were replaced; True when they were. Raises FileNotFoundError, ValueError."""
        status = (self.directory / _CERTIFICATE).stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return False
        self.root_pem, self.key_pem, self.certificate_pem = ((self.directory / name).read_bytes() for name in _FILES)
        subject = x509_facts.read(self.certificate_pem).subject
        self.node_id = subject.get(x509_facts.COMMON_NAME, "")
        self.cluster_id = subject.get(x509_facts.ORGANIZATION, "")
        self.role = role_of_unit(subject.get(x509_facts.ORGANIZATIONAL_UNIT, ""))
        self.__dict__.pop("certificate", None)
        self._stamp = stamp
        return True

    @cached_property
    def certificate(self) -> "x509.Certificate":
        """All that the certificate says; loads the library that knows."""
        from cryptography import x509

        return x509.load_pem_x509_certificate(self.certificate_pem)

    @property
    def is_manager(self) -> bool:
        """The certificate says so."""
        return self.role == NodeRole.NODE_ROLE_MANAGER

    @staticmethod
    def store(directory: Path, certificate_pem: bytes, key_pem: bytes, root_pem: bytes) -> None:
        """Replace the files. Whatever happens meanwhile, `finish` makes either the old or the new identity of them."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = directory / f"{_CERTIFICATE}.part"
        for path, data in (
            (_waiting(directory, "root.pem"), root_pem),
            (_waiting(directory, "key.pem"), key_pem),
            (unfinished, certificate_pem),
        ):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        # From here on there is no way back.
        unfinished.rename(_waiting(directory, _CERTIFICATE))
        _sync(directory)
        _replace(directory)

    @staticmethod
    def finish(directory: Path) -> None:
        """Finish or undo a `store` that was cut short; for the owner of the directory, before anybody reads it."""
        if _waiting(directory, _CERTIFICATE).exists():
            _replace(directory)
        for path in (*(_waiting(directory, name) for name in _FILES), directory / f"{_CERTIFICATE}.part"):
            path.unlink(missing_ok=True)


def _waiting(directory: Path, name: str) -> Path:
    return directory / f"{name}.new"


def _replace(directory: Path) -> None:
    for name in _FILES:
        if _waiting(directory, name).exists():
            _waiting(directory, name).rename(directory / name)
    _sync(directory)


def _sync(directory: Path) -> None:
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def role_of_unit(unit: str) -> "NodeRole.ValueType":
    """The role that a node's certificate gives it by its OU. Raises ValueError when it names none."""
    if unit == MANAGER_OU:
        return NodeRole.NODE_ROLE_MANAGER
    if unit == WORKER_OU:
        return NodeRole.NODE_ROLE_WORKER
    raise ValueError(f"a node certificate's OU is {MANAGER_OU} or {WORKER_OU}, not {unit!r}")
