"""Whom TLS believes at a registry: the system's authorities, and what certs.d has for its host.

/etc/containers/certs.d/HOST[:PORT]/*.crt        authorities, beside the system's
/etc/docker/certs.d/HOST[:PORT]/*.cert, *.key    what this machine shows of itself
"""

import os
import ssl
from pathlib import Path

from flota.worker.images.errors import RegistryUnavailable

_PLACES = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def context(host: str, *, insecure: bool) -> ssl.SSLContext:
    """For talking to `host`; with `insecure`, whatever it shows. Blocks. Raises RegistryUnavailable."""
    made = ssl.create_default_context()
    # What is asked of authorities elsewhere: many registries' own ones are no more than a key that vouches for itself.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    for directory in _directories(host):
        if directory.is_dir():
            _add(made, directory)
            break
    if insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _directories(host: str) -> list[Path]:
    home = os.environ.get("HOME")
    own = [Path(home, ".config/containers/certs.d", host)] if home else []
    return [*own, *(Path(place, host) for place in _PLACES)]


def _add(made: ssl.SSLContext, directory: Path) -> None:
    file = directory
    try:
        for file in sorted(directory.iterdir()):
            if file.suffix == ".crt":
                made.load_verify_locations(file)
            elif file.suffix == ".cert":
                made.load_cert_chain(file, file.with_suffix(".key"))
    except (OSError, ssl.SSLError) as error:
        raise RegistryUnavailable(f"images cannot be pulled: {file}: {error}") from None
