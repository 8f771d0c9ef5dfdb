"""Docker's command line on another machine: contexts over SSH and over mutual TLS."""

import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flota.node.lab import Lab, machine
from tests.cluster.gateway.certificates import write_certificates
from tests.cluster.gateway.course import DEBIAN, Machines
from tests.cluster.waiting import wait_until

SSHD = DEBIAN.parents[1] / "ssh/sshd"
DOCKER_SOCKET = "/var/run/docker.sock"

pytestmark = [
    pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's docker client could not be fetched (setup/install.sh)"),
]


@pytest.fixture
def lab(make_lab: Callable[..., Lab], tmp_path: Path) -> Lab:
    """A machine whose daemon answers where Docker's tools look, and other machines with certificates."""
    tls = tmp_path / "tls"
    listening = f"--docker-listen=0.0.0.0:2376 --docker-tls-dir={tls} --docker-socket={DOCKER_SOCKET}"
    # Its address is known once the machine is there; the certificates follow then.
    wait = f"until [ -e {tls}/cert.pem ]; do sleep 0.05; done"
    daemon = f"{wait}; exec flota daemon --state-dir=/run/state {listening}"
    lab = make_lab(managers=1, workers=0, command=["/bin/sh", "-c", daemon])
    write_certificates(tls, lab.nodes["m1"].address)
    run_directory = lab.nodes["m1"].run_directory
    wait_until(lambda: (run_directory / "docker.sock").is_symlink(), "a daemon")
    lab.nodes["m1"].flota("swarm", "init")
    return lab


@contextmanager
def sshd(lab: Lab, scratch: Path) -> Iterator[Path]:
    """Serves SSH on m1, where `docker` is Debian's; gives a directory in which `ssh` is a program that may come in."""
    scratch.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", scratch / name], check=True)
    (scratch / "accounts").write_text("root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n")
    (scratch / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    (scratch / "sshd_config").write_text(
        f"HostKey {scratch}/host\nAuthorizedKeysFile {scratch}/user.pub\nStrictModes no\nPidFile /run/sshd/pid\n"
        f"SetEnv PATH={DEBIAN.parent}:/usr/bin:/bin\n"
    )
    (scratch / "bin").mkdir()
    (scratch / "bin/ssh").write_text(
        f"#!/bin/sh\nexec /usr/bin/ssh -F none -i {scratch}/user -o StrictHostKeyChecking=no "
        f'-o UserKnownHostsFile={scratch}/known "$@"\n'
    )
    (scratch / "bin/ssh").chmod(0o755)
    # In mounts of its own: this machine's accounts stay as they are.
    serve = (
        f"mkdir -p /run/sshd && mount --bind {scratch}/accounts /etc/passwd "
        f"&& mount --bind {scratch}/shadow /etc/shadow && exec {SSHD} -D -e -f {scratch}/sshd_config"
    )
    command = ["unshare", "--mount", "--propagation=private", "/bin/sh", "-c", serve]
    process = subprocess.Popen(machine.entering(lab.nodes["m1"].pid, command), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        wait_until(lambda: "listening on 0.0.0.0" in process.stderr.readline(), "an sshd", step=0)
        yield scratch / "bin"
    finally:
        lab.nodes["m1"].exec(["sh", "-c", "kill $(cat /run/sshd/pid)"], check=False)
        process.communicate()


@pytest.mark.skipif(not SSHD.exists(), reason="Debian's sshd could not be fetched (setup/install.sh)")
def test_a_context_over_ssh(lab: Lab, tmp_path: Path) -> None:
    machines = Machines(lab, DEBIAN, "docker.sock", tmp_path)
    with sshd(lab, tmp_path / "ssh") as programs:
        far = f"env -u DOCKER_HOST PATH={programs}:$PATH docker"
        create = f"{far} context create far --docker host=ssh://root@{lab.nodes['m1'].address}"
        assert machines.run("m1", create)[0] == "far"
        assert machines.run("m1", f"{far} --context far node ls --format '{{{{.Hostname}}}} {{{{.Status}}}}'") == [
            "m1 Ready"
        ]
        assert machines.run("m1", f"printf shown | {far} --context far config create page - | wc -w") == ["1"]
        assert machines.run("m1", f"{far} --context far config ls --format '{{{{.Name}}}}'") == ["page"]


def test_a_context_over_mutual_tls(lab: Lab, tmp_path: Path) -> None:
    machines = Machines(lab, DEBIAN, "docker.sock", tmp_path)
    address, tls = lab.nodes["m1"].address, tmp_path / "tls"
    far = "env -u DOCKER_HOST docker"
    files = f"ca={tls}/ca.pem,cert={tls}/cert.pem,key={tls}/key.pem"
    assert machines.run("m1", f"{far} context create far --docker host=tcp://{address}:2376,{files}")[0] == "far"
    assert machines.run("m1", f"{far} --context far node ls --format '{{{{.Hostname}}}} {{{{.Status}}}}'") == [
        "m1 Ready"
    ]
    # Who has no certificate is not heard.
    answer = machines.run("m1", f"{far} --tlsverify --tlscacert {tls}/ca.pem -H tcp://{address}:2376 node ls")
    assert len(answer) == 1
    assert answer[0].startswith("error during connect")


def test_what_is_at_dockers_path_already_is_left_alone(lab: Lab) -> None:
    node = lab.nodes["m1"]
    other = ["flota", "daemon", "--state-dir=/run/b", "--run-dir=/run/b/run", f"--docker-socket={DOCKER_SOCKET}"]
    refused = node.exec(other, check=False)
    assert refused.returncode != 0
    assert f"invalid --docker-socket '{DOCKER_SOCKET}': it is there already" in refused.stderr
    assert node.exec(["readlink", DOCKER_SOCKET]).stdout == "/run/flota/docker.sock\n"
    assert shlex.split(node.exec(["flota", "node", "ls", "-q"]).stdout)
