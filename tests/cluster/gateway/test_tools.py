"""Tools that others made for Docker, run as they are: docker-compose of Debian, python-on-whales, testcontainers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from python_on_whales import DockerClient

from tests.cluster.gateway.course import DEBIAN
from tests.cluster.labs import lab_up
from tests.cluster.waiting import wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("tools")]

COMPOSE = shutil.which("docker-compose")
SHOP = """
version: "2.4"
services:
  db:
    image: busybox
    command: sh -c 'echo stored >/data/state; exec httpd -f -p 80 -h /data'
    volumes: [data:/data]
    healthcheck: {test: "wget -q -O /dev/null http://127.0.0.1/state", interval: 0.3s, timeout: 20s, retries: 200}
    mem_limit: 64m
    stop_signal: SIGKILL
    networks: {back: {aliases: [store]}}
  web:
    image: busybox
    command: sh -c 'echo web is up; exec httpd -f -p 8000 -h /'
    depends_on: {db: {condition: service_healthy}}
    ports: ["127.0.0.1:8099:8000"]
    environment: {WORD: first}
    stop_signal: SIGKILL
    networks: [back]
    restart: unless-stopped
volumes: {data: {}}
networks: {back: {}}
"""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """DOCKER_HOST of a node in no swarm."""
    with lab_up(managers=1, workers=0, swarm=False) as lab:
        yield f"unix://{lab.nodes['m1'].run_directory}/flota/docker.sock"


@pytest.mark.skipif(COMPOSE is None, reason="Debian's docker-compose is not installed (setup/install.sh)")
def test_docker_compose_runs_an_application(host: str, tmp_path: Path) -> None:
    """Version 1, which speaks by docker-py 5."""
    file = tmp_path / "docker-compose.yml"
    file.write_text(SHOP)

    def compose(*words: str) -> str:
        done = subprocess.run(
            [str(COMPOSE), "--project-name", "shop", *words],
            env={"DOCKER_HOST": host, "PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "200"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}"
        return done.stdout

    compose("up", "-d")
    wait_until(lambda: "web is up" in compose("logs", "--no-color", "web"), "it says so")
    assert compose("exec", "-T", "web", "wget", "-q", "-O", "-", "http://store/state") == "stored\n"
    one_off = compose("run", "--rm", "-T", "--no-deps", "web", "sh", "-c", "echo $WORD; wget -q -O - http://db/state")
    assert one_off.endswith("first\nstored\n")
    assert compose("port", "web", "8000") == "127.0.0.1:8099\n"
    compose("pause", "db")
    assert "Paused" in compose("ps")
    compose("unpause", "db")
    compose("up", "-d", "--scale", "db=2")
    wait_until(lambda: compose("ps").count("Up (healthy)") == 2, "two healthy ones")
    file.write_text(SHOP.replace("WORD: first", "WORD: second"))
    compose("up", "-d", "--scale", "db=2")
    assert compose("exec", "-T", "web", "sh", "-c", "echo $WORD") == "second\n", "made anew, as its file says now"
    compose("down", "-v", "-t", "0")
    assert compose("ps", "-q") == ""


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's docker client could not be fetched (setup/install.sh)")
def test_python_on_whales_reads_all_that_it_asks_for(host: str, tmp_path: Path) -> None:
    """It checks every answer against models of its own."""
    whale = DockerClient(client_call=[str(DEBIAN)], host=host)
    assert whale.run("busybox", ["echo", "hi"], remove=True) == "hi"
    container = whale.run(
        "busybox",
        ["sleep", "1000"],
        detach=True,
        name="whale",
        memory="64m",
        restart="always",
        publish=[("127.0.0.1:8098", "80")],
    )
    assert container.state.running
    assert container.host_config.memory == 64 << 20
    assert container.network_settings.ports == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8098"}]}
    assert container.execute(["touch", "/new"]) == ""
    assert container.diff() == {"/new": "A"}
    whale.container.update(container, memory="80m", memory_swap="160m", pids_limit=50)
    whale.container.update(container, pids_limit=-1)
    container.pause()
    assert container.state.paused
    container.unpause()
    image = container.commit("snapshot:1", author="me", message="as it was")
    assert (image.comment, image.author, image.repo_tags) == ("as it was", "me", ["snapshot:1"])
    container.export(tmp_path / "all.tar")
    whale.import_(tmp_path / "all.tar", tag="flat:1")
    assert whale.run("flat:1", ["ls", "/new"], remove=True) == "/new"
    assert whale.stats(containers=[container])[0].container_name == "whale"
    assert {one.repo_tags[0] for one in whale.image.list()} == {"busybox:latest", "snapshot:1", "flat:1"}
    container.kill()
    container.remove(force=True)
    whale.image.remove(["snapshot:1", "flat:1"])

    whale.swarm.init()
    service = whale.service.create("busybox", ["sleep", "1000"])
    assert service.spec.task_template.container_spec.image.startswith("busybox")
    assert len(service.ps()) == 1
    (node,) = whale.node.list()
    assert node.manager_status is not None
    service.remove()
    whale.swarm.leave(force=True)


def test_testcontainers_waits_for_what_it_starts(host: str) -> None:
    story = """
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

with Network() as network:
    container = DockerContainer("busybox").with_command(["sh", "-c", "echo ready; exec sleep 1000"])
    container = container.with_exposed_ports(80).with_network(network).with_network_aliases("known")
    with container.waiting_for(LogMessageWaitStrategy("ready")) as started:
        assert started.get_exposed_port(80) > 0
        assert b"Name:" in started.exec(["nslookup", "known."]).output
        assert started.get_logs() == (b"ready\\n", b"")
"""
    environment = os.environ | {"DOCKER_HOST": host, "TESTCONTAINERS_RYUK_DISABLED": "true"}
    done = subprocess.run([sys.executable, "-c", story], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
