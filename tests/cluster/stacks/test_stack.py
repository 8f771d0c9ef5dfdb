"""A stack on real machines: deployed in order, found by name and port, updated, exported, removed without a trace."""

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flota.node.lab import Lab
from flota.v1.control_pb2 import ListConfigsRequest, ListNetworksRequest, ListSecretsRequest, ListTasksRequest
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

FILE = """
x-quick: &quick
  image: busybox:latest
  stop_grace_period: 1s
  deploy: &deploy
    restart_policy: {delay: 0s}
    update_config: {monitor: 0s, order: start-first}
services:
  init:
    <<: *quick
    command: sh -c 'echo ready > /shared/state'
    volumes: [shared:/shared]
    deploy: {mode: replicated-job, placement: {constraints: [node.role == manager]}}
  web:
    <<: *quick
    command:
      - sh
      - -c
      - (cat /run/secrets/token /shared/state; echo "$$GREETING") > /www/index.html; exec httpd -f -p 80 -h /www
    depends_on: {init: {condition: service_completed_successfully}}
    environment: {GREETING: "${GREETING:-hello} from {{.Task.Slot}}"}
    configs: [{source: page, target: /page}]
    secrets: [{source: token, mode: 0400}]
    volumes: [shared:/shared:ro]
    tmpfs: /www
    ports: ["8090:80"]
    healthcheck: {test: wget -qO- http://localhost/, interval: 2s, start_period: 120s, start_interval: 200ms}
    networks: {default: {aliases: [site]}}
    deploy: {<<: *deploy, replicas: 1, placement: {constraints: [node.role == manager]}}
  client:
    <<: *quick
    command: sh -c 'until wget -qO- http://site/; do sleep 0.2; done; exec sleep 100000'
    depends_on: {web: {condition: service_healthy}}
volumes: {shared: }
secrets: {token: {content: "geheim\\n"}}
configs: {page: {content: unused}}
"""


@pytest.fixture
def swarm(make_lab: Callable[..., Lab]) -> Iterator[Swarm]:
    with Swarm(make_lab(1, 1)) as swarm:
        yield swarm


def page(swarm: Swarm, node: str) -> list[str]:
    """What the published port of a node answers; nothing while nobody does."""
    address = swarm.lab.nodes[node].address
    try:
        with urllib.request.urlopen(f"http://{address}:8090/", timeout=30) as answer:
            lines: list[str] = answer.read().decode().split("\n")
    except OSError:
        return []
    return lines


def left(swarm: Swarm) -> tuple[int, ...]:
    """How many networks, secrets, configs and tasks there are."""
    control = swarm.control()
    return (
        len(control.ListNetworks(ListNetworksRequest(), timeout=60).networks),
        len(control.ListSecrets(ListSecretsRequest(), timeout=60).secrets),
        len(control.ListConfigs(ListConfigsRequest(), timeout=60).configs),
        len(control.ListTasks(ListTasksRequest(), timeout=60).tasks),
    )


def test_a_stack_from_its_first_deploy_to_its_end(swarm: Swarm, tmp_path: Path) -> None:
    m1 = swarm.lab.nodes["m1"]
    before = left(swarm)
    file = tmp_path / "compose.yml"
    file.write_text(FILE)

    said = m1.flota("stack", "deploy", "-c", str(file), "shop").splitlines()
    assert [line for line in said if line.startswith(("Creating service", "Waiting"))] == [
        "Creating service shop_init",
        "Waiting until shop_init is complete, for shop_web",
        "Creating service shop_web",
        "Waiting until shop_web is healthy, for shop_client",
        "Creating service shop_client",
    ]
    first = ["geheim", "ready", "hello from 1"]
    for node in ("m1", "w1"):
        wait_until(lambda node=node: page(swarm, node)[:3] == first, f"the page, on {node}")
    wait_until(
        lambda: "hello from 1" in m1.flota("service", "logs", "--raw", "shop_client").splitlines(), "the client's log"
    )

    assert set(m1.flota("stack", "deploy", "-c", str(file), "shop").splitlines()) == {
        "Nothing changed: stack shop is what the files say",
        *(f"Service shop_{name} is unchanged" for name in ("init", "web", "client")),
    }
    file.write_text(FILE.replace("${GREETING:-hello}", "goodbye").replace("geheim", "neu"))
    assert "~ environment.GREETING" in m1.flota("stack", "diff", "-c", str(file), "shop", check=False)
    m1.flota("stack", "deploy", "-c", str(file), "shop")
    wait_until(lambda: page(swarm, "w1")[:3] == ["neu", "ready", "goodbye from 1"], "the new version")
    m1.flota("stack", "rollback", "shop")
    wait_until(lambda: page(swarm, "w1")[:3] == ["geheim", "ready", "hello from 1"], "the version before")
    m1.flota("stack", "rollback", "shop")
    wait_until(lambda: page(swarm, "w1")[:3] == ["neu", "ready", "goodbye from 1"], "the version before that")

    told = m1.flota("events", "--since", "1h", "--until", "0s", "--filter", "service=shop_web")
    assert " service create " in told
    assert " task running " in told
    assert "image=busybox:latest, name=shop_web.1, node=m1" in told
    assert "managers     reached:" in m1.flota("doctor"), "nothing fails, so its exit status is 0"

    exported = tmp_path / "exported.yml"
    exported.write_text(m1.flota("stack", "export", "shop"))
    assert m1.flota("stack", "diff", "--prune", "-c", str(exported)).startswith("No changes")

    m1.flota("stack", "rm", "shop")
    assert left(swarm) == before
    assert [swarm.containers(node) for node in swarm.lab.nodes] == [0, 0]
