"""Docker's own clients against real daemons and containers."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound

from flota.node.lab import Lab
from tests.cluster.gateway.course import DEBIAN, Machines, play
from tests.cluster.gateway.questions import ask_about, ask_all, asked, portainer_snapshot, traefik_sees
from tests.cluster.images.registry import Registry
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.timeout(600)


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's docker client could not be fetched (setup/install.sh)")
def test_a_course_of_docker_swarm_from_end_to_end(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """Each answer is the one that Docker Swarm 20.10.24 gave."""
    lab = make_lab(managers=1, workers=1, swarm=False)
    machines = Machines(lab, DEBIAN, "flota/docker.sock", tmp_path)
    with machines.registry("m1", tmp_path / "registry"):
        play(machines)


NEWEST = shutil.which("docker")


@pytest.mark.soak
@pytest.mark.skipif(NEWEST is None, reason="no docker client on the path")
def test_the_same_course_with_this_machines_client(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """Tried with 28.2."""
    assert NEWEST is not None
    lab = make_lab(managers=1, workers=1, swarm=False)
    machines = Machines(lab, Path(NEWEST), "flota/docker.sock", tmp_path)
    with machines.registry("m1", tmp_path / "registry"):
        play(machines)


together = pytest.mark.xdist_group("gateway")


@together
def test_docker_py_knows_the_swarm(client: Any) -> None:
    assert client.ping()
    assert client.version()["Platform"]["Name"] == "flota"
    assert client.info()["Swarm"]["ControlAvailable"] is True
    client.swarm.reload()
    assert client.swarm.attrs["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
    (node,) = client.nodes.list()
    node.update(node.attrs["Spec"] | {"Labels": {"zone": "east"}})
    node.reload()
    assert node.attrs["Spec"]["Labels"] == {"zone": "east"}


@together
def test_docker_py_runs_services(client: Any) -> None:
    mode = docker.types.ServiceMode("replicated", 2)
    command = ["sh", "-c", "echo hello; exec sleep 1000"]
    service = client.services.create("busybox", command, name="web", mode=mode, labels={"a": "b"}, init=True)
    assert client.services.list(filters={"label": "a=b"}) == [service]

    def running() -> list[Any]:
        tasks = service.tasks(filters={"desired-state": "running"})
        return [task for task in tasks if task["Status"]["State"] == "running"]

    wait_until(lambda: len(running()) == 2, "two tasks")
    wait_until(lambda: b"".join(service.logs(stdout=True)).count(b"hello") == 2, "two lines")
    assert service.scale(3)
    wait_until(lambda: len(running()) == 3, "three tasks")
    service.reload()
    with pytest.raises(APIError, match="update out of sequence") as refused:
        client.api.update_service(service.id, 1, task_template=service.attrs["Spec"]["TaskTemplate"], name="web")
    assert refused.value.status_code == 500
    service.remove()
    with pytest.raises(NotFound):
        client.services.get("web")


@together
def test_docker_py_talks_to_containers(client: Any) -> None:
    client.services.create("busybox", ["sleep", "1000"], name="one", init=True)
    (container,) = wait_until(client.containers.list, "a container")
    assert container.labels["com.docker.swarm.service.name"] == "one"
    assert container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 7"], demux=True) == (7, (b"out\n", b"err\n"))
    code, output = container.exec_run(["nonexistent"])
    assert code == 127
    assert b"nonexistent" in output
    assert any("sleep 1000" in " ".join(row) for row in container.top()["Processes"])
    assert container.stats(stream=False)["memory_stats"]["usage"] > 0

    made = client.api.exec_create(container.id, ["cat"], stdin=True)
    wire = client.api.exec_start(made["Id"], socket=True)
    wire._sock.sendall(b"through and back\n")
    said = b""
    while len(said) < 8 + 17:
        said += wire._sock.recv(8 + 17 - len(said))
    assert said[8:] == b"through and back\n"
    wire._sock.close()

    container.kill()
    wait_until(lambda: container.id not in [one["Id"] for one in client.api.containers()], "its end")


@together
def test_a_container_is_shown_with_what_its_image_says(client: Any) -> None:
    """`docker inspect` of a task's container, while it runs and after it."""
    image = client.images.get("busybox")
    volume = client.volumes.create("kept")
    mount = docker.types.Mount("/kept", "kept", type="volume")
    options: dict[str, Any] = {"env": ["A=1"], "mounts": [mount], "networks": ["flota"], "init": True}
    service = client.services.create("busybox", args=["sleep", "1000"], name="shown", stop_grace_period=0, **options)
    wait_until(lambda: [each.status for each in client.containers.list()] == ["running"], "a container")
    (found,) = client.containers.list()
    shown = found.attrs
    assert (shown["Image"], found.image) == (image.id, image)
    config = shown["Config"]
    assert (config["Cmd"], config["Entrypoint"]) == (["sleep", "1000"], None)
    assert config["Env"] == [*image.attrs["Config"]["Env"], "A=1"]
    assert (shown["Path"], shown["Args"]) == ("sleep", ["1000"])
    assert shown["LogPath"].startswith("/")
    assert shown["State"]["Pid"] > 0
    began = shown["State"]["StartedAt"]
    assert shown["Created"] < began
    assert shown["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert [(each["Type"], each["Name"], each["Source"]) for each in shown["Mounts"]] == [
        ("volume", "kept", volume.attrs["Mountpoint"])
    ]
    inside = found.exec_run(["cat", "/sys/class/net/eth0/address"]).output.decode().strip()
    assert shown["NetworkSettings"]["Networks"]["flota"]["MacAddress"] == inside

    # Whoever inspects "something" asks for a container by that id first: a task's is not its container's.
    (task,) = service.tasks()
    assert task["Status"]["ContainerStatus"]["ContainerID"] == found.id
    assert re.fullmatch("[0-9a-f]{64}", found.id)
    assert config["Hostname"] == found.id[:12]
    assert found.exec_run(["hostname"]).output.decode().strip() == found.id[:12]
    with pytest.raises(docker.errors.NotFound):
        client.containers.get(task["ID"])
    found.kill()
    wait_until(lambda: client.containers.get(found.id).status == "exited", "its end")
    ended = client.containers.get(found.id).attrs
    state = ended["State"]
    assert (state["StartedAt"], state["ExitCode"], state["Pid"], ended["Image"]) == (began, 137, 0, image.id)
    assert state["FinishedAt"] > began
    service.remove()
    wait_until(lambda: not client.containers.list(), "no containers")
    volume.remove(force=True)


@together
def test_docker_py_keeps_secrets_configs_networks_and_volumes(client: Any) -> None:
    secret = client.secrets.create(name="password", data=b"hidden")
    config = client.configs.create(name="page", data=b"shown")
    assert [each.name for each in client.secrets.list()] == ["password"]
    assert client.configs.get(config.id).attrs["Spec"]["Data"] == "c2hvd24="
    network = client.networks.create("back", driver="overlay")
    assert client.networks.list(names=["back"]) == [network]
    volume = client.volumes.create("data", labels={"a": "b"})
    assert client.volumes.list(filters={"label": "a=b"}) == [volume]
    nameless = client.volumes.create()
    assert client.volumes.prune()["VolumesDeleted"] == [nameless.name], "one with a name is removed by `all` alone"
    client.volumes.create("fleeting", labels={"fleeting": ""})
    assert client.volumes.prune({"label": "fleeting"})["VolumesDeleted"] is None
    assert client.volumes.prune({"all": True, "label": "fleeting"})["VolumesDeleted"] == ["fleeting"]
    for each in (secret, config, network, volume):
        each.remove()
    with pytest.raises(APIError) as refused:
        client.networks.create("other", driver="macvlan")
    assert refused.value.status_code == 501


@together
@pytest.mark.parametrize("kind", ["secrets", "configs"])
def test_labels_of_secrets_and_configs_change_and_nothing_else(client: Any, kind: str) -> None:
    made = getattr(client, kind).create(name="labelled", data=b"content")
    stored = getattr(client, kind).get(made.id).attrs

    def update(spec: dict[str, Any], version: int) -> None:
        url = client.api._url(f"/{kind}/{{0}}/update", made.id)
        client.api._raise_for_status(client.api._post_json(url, data=spec, params={"version": version}))

    spec = stored["Spec"] | {"Labels": {"a": "b"}}
    update(spec, stored["Version"]["Index"])
    changed = getattr(client, kind).get(made.id).attrs
    assert changed["Spec"]["Labels"] == {"a": "b"}
    with pytest.raises(APIError, match="update out of sequence"):
        update(spec, stored["Version"]["Index"])
    with pytest.raises(APIError, match="only labels can change") as refused:
        update(spec | {"Data": "b3RoZXI="}, changed["Version"]["Index"])
    assert refused.value.status_code == 400
    made.remove()


@together
def test_docker_py_sees_what_happens(client: Any) -> None:
    seen: list[dict[str, Any]] = []
    with closing(client.events(decode=True, filters={"type": ["secret", "container"]})) as events:
        client.secrets.create(name="token", data=b"x").remove()
        client.services.create("busybox", ["sleep", "1000"], name="brief", init=True)
        for event in events:
            if event["Actor"]["Attributes"].get("com.docker.swarm.service.name", "brief") != "brief":
                # An earlier test's container goes.
                continue
            seen.append(event)
            if event["Action"] == "start":
                break
    assert [(one["Type"], one["Action"]) for one in seen] == [
        ("secret", "create"), ("secret", "remove"), ("container", "create"), ("container", "start"),
    ]  # fmt: skip


@together
def test_docker_py_sees_what_has_happened(client: Any) -> None:
    client.secrets.create(name="past", data=b"x").remove()
    now = time.time()
    everything = client.events(decode=True, since=0, until=now + 1, filters={"secret": "past"})
    assert [one["Action"] for one in everything] == ["create", "remove"]
    past = client.events(decode=True, since=now - 60, until=now + 1, filters={"type": "secret", "secret": "past"})
    assert [one["Action"] for one in past] == ["create", "remove"]


@together
def test_images_are_tagged_saved_loaded_and_removed(client: Any) -> None:
    image = client.images.get("busybox")
    assert image.tag("example.com/box", "1")
    saved = b"".join(client.api.get_image("example.com/box:1"))
    client.images.remove("example.com/box:1")
    assert "example.com/box:1" not in client.images.get("busybox").tags
    client.images.load(saved)
    assert [one.id for one in client.images.list(name="busybox")] == [image.id]
    client.images.remove("example.com/box:1")


@pytest.fixture
def registry(swarm: Lab, tmp_path: Path) -> Iterator[str]:
    """host:port of a registry on the node, which asks who one is."""
    made = Registry(tmp_path / "registry", auth=True)
    with made.serving(swarm.nodes["m1"].pid):
        yield made.address


@together
def test_a_private_registry_gets_an_image_and_gives_it_to_a_service(client: Any, registry: str) -> None:
    with pytest.raises(APIError):
        client.login("reader", "wrong", registry=registry)
    assert client.login("reader", "secret", registry=registry)["Status"] == "Login Succeeded"
    name = f"{registry}/box"
    assert client.images.get("busybox").tag(name, "1")
    pushed = list(client.images.push(name, "1", stream=True, decode=True))
    digest = next(line["aux"]["Digest"] for line in pushed if "aux" in line)
    found = client.images.get_registry_data(f"{name}:1")
    assert (found.id, found.has_platform("linux/amd64")) == (digest, True)
    client.images.remove(f"{name}:1")

    service = client.services.create(f"{name}:1@{digest}", ["sleep", "1000"], name="private", init=True)
    wait_until(lambda: [task["Status"]["State"] for task in service.tasks()] == ["running"], "a task")


@together
def test_a_swarm_is_read_through_its_api_to_be_taken_over(client: Any, swarm: Lab) -> None:
    config = client.configs.create(name="page", data=b"shown")
    told = swarm.nodes["m1"].flota("migrate", "--from", "unix:///run/flota/docker.sock")
    assert "= config page: is here already" in told.splitlines()
    config.remove()


@together
def test_a_stacks_past_is_no_config_of_a_persons(client: Any, swarm: Lab, tmp_path: Path) -> None:
    """What `flota stack deploy` keeps is shown to who asks for the stack's things, as `docker stack rm` does."""
    compose = "services: {one: {image: busybox, command: sleep 1000, init: true}}"
    (tmp_path / "compose.yml").write_text(compose)
    swarm.nodes["m1"].flota("stack", "deploy", "--detach", "-c", str(tmp_path / "compose.yml"), "past")
    assert client.configs.list() == []
    mine = {"label": "com.docker.stack.namespace=past"}
    for record in client.configs.list(filters=mine):
        record.remove()
    assert swarm.nodes["m1"].flota("config", "ls", "-q", "--filter", "label=flota.stack.record") == ""


@together
def test_traefik_finds_a_services_labels_and_addresses(client: Any, swarm: Lab) -> None:
    labels = {"traefik.enable": "true", "traefik.http.services.shown.loadbalancer.server.port": "80"}
    mode = docker.types.ServiceMode("replicated", 2)
    client.services.create("busybox", ["sleep", "1000"], name="shown", mode=mode, labels=labels, init=True)
    path = swarm.nodes["m1"].run_directory / "flota/docker.sock"
    wait_until(lambda: len(traefik_sees(path, "shown")["tasks"]) == 2, "two tasks")
    seen = traefik_sees(path, "shown")
    assert (seen["labels"], seen["mode"], seen["nodes"]) == (labels, "vip", {swarm.nodes["m1"].address})
    assert set(seen["virtual"]) == {"flota"}
    assert {name: set(networks) for name, networks in seen["tasks"].items()} == {
        "shown.1": {"flota"}, "shown.2": {"flota"},
    }  # fmt: skip
    addresses = [address for networks in seen["tasks"].values() for address in networks["flota"]]
    assert len({ip_interface(address).ip for address in addresses}) == 2


@together
@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's docker client could not be fetched (setup/install.sh)")
def test_what_shepherd_runs_is_understood(client: Any, swarm: Lab, tmp_path: Path) -> None:
    """Its script's commands, one by one; `docker manifest inspect` asks the registry by itself."""
    machines = Machines(swarm, DEBIAN, "flota/docker.sock", tmp_path)
    client.services.create("busybox", ["sleep", "1000"], name="kept", labels={"shepherd": "yes"}, init=True)
    image = "{{.Spec.TaskTemplate.ContainerSpec.Image}}"
    update = "docker service update kept --detach=false --with-registry-auth --no-resolve-image --image=busybox:latest"
    for line, answer in (
        ("docker version -f '{{.Server.Version}}' | wc -w", ["1"]),
        ("docker service ls --quiet --filter label=shepherd=yes --format '{{.Name}}'", ["kept"]),
        (f"docker service inspect kept -f '{image}'", ["busybox"]),
        (f"{update} > /dev/null; echo $?", ["0"]),
        (f"docker service inspect kept -f '{image.replace('.Spec', '.PreviousSpec', 1)}'", ["busybox"]),
        (f"docker service inspect kept -f '{image}'", ["busybox:latest"]),
        ("docker images -aq --filter=reference=busybox | grep -q . && echo some", ["some"]),
        ("docker images -aq --filter=reference=nothing | wc -l", ["0"]),
    ):
        assert machines.run("m1", line) == answer, line


@together
def test_nobody_who_only_looks_gets_an_error(client: Any, swarm: Lab) -> None:
    client.services.create("busybox", ["sleep", "1000"], name="seen", init=True)
    wait_until(client.api.containers, "a container")
    path = swarm.nodes["m1"].run_directory / "flota/docker.sock"
    ask_all(path)
    ask_about(path, "seen")
    home = portainer_snapshot(path)
    assert (home["services"], home["stacks"], home["running"], home["images"]) == (1, 0, 1, 1)
    assert home["cpus"] > 0


@together
def test_what_is_there_no_longer_or_never_was_is_said_as_docker_says_it(client: Any, swarm: Lab) -> None:
    path = swarm.nodes["m1"].run_directory / "flota/docker.sock"
    for page in ("/nothing", "/containers/x/nothing", "/plugins/x/json"):
        assert asked(path, page) == {"message": "page not found"}
    assert asked(path, "/services/nothing")["message"] == "service nothing not found"
    assert set(asked(path, "/system/df?type=volume")) == {"LayersSize", "BuilderSize", "Volumes"}
    spec = {"Image": "busybox", "Command": ["sleep", "1000"], "Init": True, "OfTomorrow": [1]}
    body = {"Name": "odd", "OfTomorrow": {}, "TaskTemplate": {"ContainerSpec": spec, "OfTomorrow": 1}}
    made = client.api._post_json(client.api._url("/services/create"), data=body)
    assert made.status_code == 201
    with pytest.raises(APIError, match="illegal base64 data") as refused:
        client.api._raise_for_status(
            client.api._post_json(client.api._url("/secrets/create"), data={"Name": "s", "Data": "no base64!"})
        )
    assert refused.value.status_code == 400


@together
def test_what_flota_does_not_do_is_said(client: Any) -> None:
    with pytest.raises(APIError, match="flota builds no images") as refused:
        list(client.api.build(fileobj=BytesIO(b"FROM busybox"), tag="anything"))
    assert refused.value.status_code == 501


@together
def test_the_process_that_answers_may_die(client: Any, swarm: Lab) -> None:
    assert client.ping()
    swarm.nodes["m1"].exec(
        [
            "sh",
            "-c",
            "for p in /proc/[0-9]*; do grep -qs 'flota.gatewa[y]' $p/cmdline && kill -9 ${p#/proc/}; done; true",
        ]
    )

    def answers() -> bool:
        try:
            return bool(client.ping())
        except (APIError, OSError):
            return False

    wait_until(answers, "an answer")
