"""Debian's Prometheus finds a swarm's nodes, services and tasks through the Docker Engine API, and asks its nodes."""

import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flota.node.lab import Lab, machine
from tests.cluster.gateway.course import DEBIAN
from tests.cluster.waiting import wait_until

PROMETHEUS = DEBIAN.parents[1] / "prometheus/prometheus"
# As docs/docker-api.md shows it; the seconds are for tests.
CONFIGURATION = """
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: nodes
    dockerswarm_sd_configs: [{host: "unix:///run/flota/docker.sock", role: nodes, refresh_interval: 1s}]
    relabel_configs:
      - source_labels: [__meta_dockerswarm_node_address]
        target_label: __address__
        replacement: $1:9324
      - source_labels: [__meta_dockerswarm_node_hostname]
        target_label: instance
  - job_name: services
    dockerswarm_sd_configs: [{host: "unix:///run/flota/docker.sock", role: services, refresh_interval: 1s}]
  - job_name: tasks
    dockerswarm_sd_configs: [{host: "unix:///run/flota/docker.sock", role: tasks, refresh_interval: 1s}]
"""


@pytest.mark.skipif(not PROMETHEUS.exists(), reason="Debian's prometheus could not be fetched (setup/install.sh)")
@pytest.mark.timeout(600)
def test_prometheus_finds_a_swarm(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab = make_lab(managers=1, workers=1)
    node = lab.nodes["m1"]
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION)
    arguments = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    # Whatever runs on the node ends with the lab.
    command = machine.entering(node.pid, [str(PROMETHEUS), *arguments, "--web.listen-address=0.0.0.0:9090"])
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            web = ["--name=web", "--replicas=2", "--publish=8080:80", "busybox", "sleep", "1000"]
            node.flota("service", "create", "-d", *web)
            finds_all_of_it(f"http://{node.address}:9090/api/v1/targets")
        finally:
            lab.down()
            process.wait()


def finds_all_of_it(page: str) -> None:
    """Wait until Prometheus says so, then look at what it knows of each."""

    def targets(job: str) -> list[dict[str, Any]]:
        try:
            with urllib.request.urlopen(page, timeout=10) as answer:
                found = json.load(answer)["data"]["activeTargets"]
        except OSError:
            return []
        return [target for target in found if target["scrapePool"] == job]

    def known(job: str, *names: str) -> set[tuple[str, ...]]:
        return {
            tuple(one["discoveredLabels"].get(f"__meta_dockerswarm_{name}", "") for name in names)
            for one in targets(job)
        }

    nodes = ("node_hostname", "node_role", "node_status", "node_availability", "node_manager_leader")
    expected = {("m1", "manager", "ready", "active", "true"), ("w1", "worker", "ready", "active", "")}
    wait_until(lambda: known("nodes", *nodes) == expected, "both nodes", 60, 0.2)
    # Their metrics are there, too.
    wait_until(
        lambda: (
            {(one["labels"]["instance"], one["health"]) for one in targets("nodes")} == {("m1", "up"), ("w1", "up")}
        ),
        "both up",
        60,
        0.2,
    )

    services = ("service_name", "service_mode", "service_endpoint_port_publish_mode", "network_name")
    wait_until(
        lambda: known("services", *services) == {("web", "replicated", "ingress", "flota")}, "a service", 60, 0.2
    )

    tasks = ("service_name", "task_slot", "task_desired_state", "task_state", "network_name")
    expected_tasks = {("web", slot, "running", "running", name) for slot in "12" for name in ("flota", "ingress")}
    wait_until(lambda: known("tasks", *tasks) == expected_tasks, "two tasks", 60, 0.2)
    assert {name for (name,) in known("tasks", "node_hostname")} <= {"m1", "w1"}
