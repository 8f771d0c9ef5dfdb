"""One swarm for all that needs a manager and no more."""

from collections.abc import Iterator
from typing import Any

import docker
import pytest

from flota.node.lab import Lab
from tests.cluster.labs import lab_up
from tests.cluster.waiting import wait_until


@pytest.fixture(scope="session")
def swarm() -> Iterator[Lab]:
    """One manager; whoever uses it is of the group `gateway`."""
    with lab_up(managers=1, workers=0) as lab:
        yield lab


@pytest.fixture
def client(swarm: Lab) -> Iterator[Any]:
    """docker-py at its manager. No service is left."""
    made = docker.DockerClient(base_url=f"unix://{swarm.nodes['m1'].run_directory}/flota/docker.sock", timeout=60)
    yield made
    for service in made.services.list():
        service.remove()
    wait_until(lambda: made.api.containers() == [], "no containers")
    made.close()
