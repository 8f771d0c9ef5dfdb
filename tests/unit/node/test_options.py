"""What `flota daemon` may be told about Docker's clients on other machines."""

from pathlib import Path

import pytest

from flota.node.options import DaemonOptions
from flota.node.places import CannotStart


def test_an_address_for_dockers_clients_is_host_and_port(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="invalid --docker-listen 'everywhere': host:port is needed"):
        DaemonOptions(docker_listen="everywhere", docker_tls_directory=tmp_path).check()


def test_nobody_listens_without_certificates(tmp_path: Path) -> None:
    options = DaemonOptions(docker_listen="0.0.0.0:2376", docker_tls_directory=tmp_path)
    (tmp_path / "ca.pem").touch()
    (tmp_path / "cert.pem").touch()
    with pytest.raises(CannotStart, match=r"there is no key\.pem in it"):
        options.check()
    (tmp_path / "key.pem").touch()
    options.check()


def test_dockers_own_socket_is_named_in_full() -> None:
    with pytest.raises(CannotStart, match=r"invalid --docker-socket 'docker\.sock': an absolute path is needed"):
        DaemonOptions(docker_socket=Path("docker.sock")).check()
