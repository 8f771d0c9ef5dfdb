"""Tags become digests when a service is made; without a registry there is a warning, and no change of what runs."""

from pathlib import Path

import pytest

from flota.v1.local_pb2 import Image
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon
from tests.unit.cli.test_stack import write

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
WARNING = "could not be accessed on a registry to record its digest: each node will access it independently"


@pytest.fixture
def registry(swarm: Daemon) -> dict[str, str]:
    """What registries have, for the worker of the daemon of the test."""
    swarm.agent.registry = {"web": ONE, "web:2": TWO}
    return swarm.agent.registry


def image_of(daemon: Daemon, service: str) -> str:
    return daemon.cluster.service(service).spec.task.container.image


def test_a_new_service_and_an_update_are_pinned(swarm: Daemon, flota: Flota, registry: dict[str, str]) -> None:
    done = flota("service", "create", "-d", "--name", "web", "--replicas", "0", "web")
    assert (done.status, done.err) == (0, "")
    assert image_of(swarm, "web") == f"web:latest@{ONE}"
    assert "web:latest" in flota("service", "ls").out
    assert ONE not in flota("service", "ls").out

    registry["web"] = TWO
    flota("service", "update", "-d", "--env-add", "A=1", "web")
    assert image_of(swarm, "web") == f"web:latest@{ONE}", "only another --image is asked for"
    flota("service", "update", "-d", "--image", "web:2", "web")
    assert image_of(swarm, "web") == f"web:2@{TWO}"
    assert len(swarm.agent.resolved) == 2


@pytest.mark.parametrize("image", ["web:2", f"web@{ONE}"])
def test_what_is_not_to_be_resolved_stays(swarm: Daemon, flota: Flota, registry: dict[str, str], image: str) -> None:
    flag = [] if "@" in image else ["--no-resolve-image"]
    assert flota("service", "create", "-d", "--name", "web", "--replicas", "0", *flag, image).err == ""
    assert image_of(swarm, "web") == image
    assert swarm.agent.resolved == []


def test_what_was_loaded_by_hand_is_no_registrys(swarm: Daemon, flota: Flota, registry: dict[str, str]) -> None:
    swarm.agent.images = [Image(id=ONE, references=["web:2"])]
    assert flota("service", "create", "-d", "--name", "web", "--replicas", "0", "web:2").err == ""
    assert image_of(swarm, "web") == "web:2"
    swarm.agent.images = [Image(id=ONE, references=["web:2"], digests=[f"web@{ONE}"])]
    flota("service", "update", "-d", "--image", "web:2", "web")
    assert image_of(swarm, "web") == f"web:2@{TWO}", "what was pulled may be newer there"


def test_without_a_registry_there_is_a_warning(swarm: Daemon, flota: Flota, registry: dict[str, str]) -> None:
    done = flota("service", "create", "-d", "--name", "web", "--replicas", "0", "nope:1")
    assert done.status == 0
    assert f"Warning: image nope:1 {WARNING}" in done.err
    assert "registry docker.io cannot be reached: no such host" in done.err
    assert image_of(swarm, "web") == "nope:1"


def deploy(flota: Flota, file: Path, *flags: str) -> str:
    done = flota("stack", "deploy", "-d", "-c", str(file), *flags, "shop")
    assert done.status == 0, done.err
    return done.err


def test_a_stack_is_pinned_and_stays_so(swarm: Daemon, flota: Flota, registry: dict[str, str], tmp_path: Path) -> None:
    file = write(tmp_path, "services: {a: {image: web, deploy: {replicas: 0}}, b: {image: web, deploy: {replicas: 0}}}")
    assert deploy(flota, file) == ""
    assert {image_of(swarm, name) for name in ("shop_a", "shop_b")} == {f"web:latest@{ONE}"}
    assert len(swarm.agent.resolved) == 1, "one image is asked for once"
    assert flota("stack", "diff", "-c", str(file), "shop").status == 0

    registry["web"] = TWO
    assert deploy(flota, file, "--resolve-image", "changed") == ""
    assert image_of(swarm, "shop_a") == f"web:latest@{ONE}"
    assert deploy(flota, file, "--resolve-image", "never") == ""
    assert image_of(swarm, "shop_a") == f"web:latest@{ONE}"
    assert flota("stack", "diff", "-c", str(file), "shop").status == 2
    assert deploy(flota, file) == ""
    assert image_of(swarm, "shop_a") == f"web:latest@{TWO}"


def test_a_registry_that_is_away_changes_nothing(
    swarm: Daemon, flota: Flota, registry: dict[str, str], tmp_path: Path
) -> None:
    file = write(tmp_path, "services: {a: {image: web, deploy: {replicas: 0}}}")
    deploy(flota, file)
    before = swarm.cluster.service("shop_a").meta.version.index
    registry.clear()
    assert WARNING in deploy(flota, file)
    assert image_of(swarm, "shop_a") == f"web:latest@{ONE}"
    assert swarm.cluster.service("shop_a").meta.version.index == before


def test_never_leaves_the_tags_of_new_services(
    swarm: Daemon, flota: Flota, registry: dict[str, str], tmp_path: Path
) -> None:
    file = write(tmp_path, "services: {a: {image: web, deploy: {replicas: 0}}}")
    deploy(flota, file, "--resolve-image", "never")
    assert image_of(swarm, "shop_a") == "web"
    assert swarm.agent.resolved == []
