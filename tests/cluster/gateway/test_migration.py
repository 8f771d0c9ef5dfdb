"""From a real Docker swarm to flota: read, planned, made, and running."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flota.node.lab import Lab, LabNode
from tests.cluster.gateway.course import DEBIAN, real_docker
from tests.cluster.waiting import wait_until

DB = (
    "docker service create -d -q --name db --network back --secret password --config source=page,target=/page "
    "--label tier=back --mount type=volume,src=data,dst=/data --health-cmd true --health-interval 1s "
    "-p 8081:80 busybox sh -c 'cat /run/secrets/password /page; exec httpd -f -p 80'"
)
THERE = (
    "docker swarm init --advertise-addr $M1",
    "docker node update --label-add zone=east m1",
    "docker network create -d overlay --subnet 10.77.0.0/24 --label a=b back",
    "printf shown | docker config create page -",
    "printf hidden | docker secret create password -",
    DB,
    "docker stack deploy -c stack.yml shop",
)


def migrate(node: LabNode, source: str, *more: str) -> subprocess.CompletedProcess[str]:
    """`flota migrate` of this machine, to the swarm of `node`."""
    command = [sys.executable, "-m", "flota.cli", "migrate", "--from", source, *more]
    environment = os.environ | {"FLOTA_HOST": node.host}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(shutil.which("dockerd") is None or not DEBIAN.exists(), reason="needs Debian's docker.io")
@pytest.mark.timeout(600)
def test_a_docker_swarm_is_taken_over(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    node = make_lab(managers=1, workers=0).nodes["m1"]
    (tmp_path / "password").write_text("hidden")
    with real_docker(tmp_path, workers=0) as machines:
        for line in THERE:
            machines.run("m1", line)
        source = machines.host("m1")
        asked = migrate(node, source, "--apply")
        # What Docker does not give away is asked for, and nothing is made by halves.
        assert asked.returncode != 0
        assert "    Docker does not give its data away: --secret password=FILE" in asked.stdout.splitlines()
        assert "    flota node update --label-add zone=east m1" in asked.stdout.splitlines()
        assert node.flota("service", "ls", "-q") == ""

        made = migrate(node, source, "--secret", f"password={tmp_path}/password", "--apply")
        assert made.returncode == 0, made.stdout + made.stderr
        # Nothing is changed there.
        assert machines.run("m1", "docker service ls -q | wc -l") == ["3"]

    def replicas() -> list[str]:
        return sorted(node.flota("service", "ls", "--format", "{{.Name}} {{.Replicas}}").splitlines())

    wait_until(lambda: replicas() == ["db 1/1", "shop_front 2/2", "shop_job 1/1"], "all tasks", 90, 0.2)
    wait_until(lambda: node.flota("service", "logs", "--raw", "db") == "hiddenshown", "what it says", 90, 0.2)
    assert node.flota("stack", "ls", "--format", "{{.Name}} {{.Services}}").split() == ["shop", "2"]
    assert "back" in node.flota("network", "ls", "--format", "{{.Name}}").splitlines()
