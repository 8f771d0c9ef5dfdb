"""`docker run`: containers that belong to no service, with Docker's own clients."""

import io
import json
import platform
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

from flota.node.lab import Lab
from tests.cluster.gateway.course import ASKED, DEBIAN, ENGINE, PLAIN, Machines, play
from tests.cluster.labs import lab_up
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.timeout(600)


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's docker client could not be fetched (setup/install.sh)")
def test_containers_answer_as_docker_s_do(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """Each answer is the one that Docker 20.10.24 gave."""
    lab = make_lab(managers=1, workers=1, swarm=False)
    play(Machines(lab, DEBIAN, "flota/docker.sock", tmp_path), PLAIN)


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's docker client could not be fetched (setup/install.sh)")
def test_what_else_is_done_to_containers(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """Paused, updated, committed, exported, watched, inspected: each answer is the one that Docker 20.10.24 gave."""
    lab = make_lab(managers=1, workers=0)
    machines = Machines(lab, DEBIAN, "flota/docker.sock", tmp_path)
    play(machines, ENGINE)
    play(machines, ASKED)


def test_a_container_and_services_share_an_attachable_network(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(managers=1, workers=1)

    def client_of(node: str) -> Any:
        return docker.DockerClient(base_url=f"unix://{lab.nodes[node].run_directory}/flota/docker.sock", timeout=60)

    with closing(client_of("m1")) as manager, closing(client_of("w1")) as worker:
        network = manager.networks.create("span", driver="overlay", attachable=True)
        where: dict[str, Any] = {"networks": ["span"], "constraints": ["node.hostname==m1"]}
        manager.services.create("busybox", ["httpd", "-f", "-p", "80"], name="web", **where)
        asking = worker.containers.run("busybox", ["sleep", "1000"], detach=True, name="asking", network="span")

        def web_answers() -> bool:
            done = asking.exec_run(["wget", "-q", "-O", "-", "http://web"])
            return b"404" in done.output

        wait_until(web_answers, "the service answers the container, by its virtual address")
        with pytest.raises(APIError, match="in use by"):
            network.remove()
        asking.restart(timeout=0)
        wait_until(web_answers, "with its next place")
        asking.remove(force=True)
        for service in manager.services.list():
            service.remove()

        def network_goes() -> bool:
            try:
                network.remove()
            except APIError:
                return False
            return True

        wait_until(network_goes, "nothing is left on the network")


def test_a_node_in_no_swarm_runs_containers_and_goes_on_with_them_in_one_and_after_it(
    make_lab: Callable[..., Lab],
) -> None:
    lab = make_lab(managers=1, workers=0, swarm=False)
    node = lab.nodes["m1"]
    assert "flota" not in node.exec(["nft", "list", "tables"]).stdout, "no rules for nothing"
    with closing(docker.DockerClient(base_url=f"unix://{node.run_directory}/flota/docker.sock", timeout=60)) as client:
        lan = client.networks.create("lan", driver="bridge")
        sleeping: dict[str, Any] = {"command": ["sleep", "1000"], "detach": True, "stop_signal": "KILL"}
        kept = client.containers.run("busybox", name="kept", network="lan", **sleeping)
        kept.reload()
        pid = kept.attrs["State"]["Pid"]
        with pytest.raises(APIError, match="not found"):
            client.containers.run("busybox", network="span", **sleeping)

        def goes_on() -> None:
            kept.reload()
            assert (kept.status, kept.attrs["State"]["Pid"]) == ("running", pid)
            asked = client.containers.run("busybox", ["ping", "-c", "1", "-W", "5", "kept"], network="lan", remove=True)
            assert b"1 packets received" in asked

        with ThreadPoolExecutor(1) as pool:
            waited_for = client.containers.run("busybox", name="short", **sleeping)
            waiting = pool.submit(waited_for.wait)
            client.swarm.init(advertise_addr=node.address)
            goes_on()
            client.networks.create("span", driver="overlay", attachable=True)
            of_the_swarm = client.containers.run("busybox", network="span", **sleeping)
            waited_for.kill()
            assert waiting.result(timeout=60)["StatusCode"] == 137, "who waited before the swarm hears of the end"
        client.swarm.leave(force=True)
        goes_on()
        of_the_swarm.reload()
        assert of_the_swarm.status == "exited"
        kept.remove(force=True)
        lan.remove()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One manager."""
    with lab_up(managers=1, workers=0) as lab:
        yield lab


@pytest.fixture
def client(lab: Lab) -> Iterator[Any]:
    made = docker.DockerClient(base_url=f"unix://{lab.nodes['m1'].run_directory}/flota/docker.sock", timeout=60)
    yield made
    # A task's may be gone meanwhile.
    for container in made.containers.list(all=True, ignore_removed=True):
        with suppress(NotFound):
            container.remove(force=True)
    made.close()


together = pytest.mark.xdist_group("plain")


@together
def test_docker_py_runs_containers(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    with pytest.raises(ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 9"], remove=True)
    assert (failed.value.exit_status, failed.value.stderr) == (9, b"bad\n")
    with pytest.raises(ImageNotFound):
        client.api.create_container("missing:1", "true")
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True, name="c", labels={"a": "b"})
    assert client.containers.list(filters={"label": "a=b"}) == [container]
    assert container.exec_run(["hostname"]) == (0, f"{container.id[:12]}\n".encode())
    alone = client.api.exec_create(container.id, ["sh", "-c", "sleep 0.3; exit 4"])
    client.api.exec_start(alone, detach=True)
    ended = wait_until(lambda: not (told := client.api.exec_inspect(alone))["Running"] and told, "its end")
    assert ended["ExitCode"] == 4
    container.rename("d")
    container.stop(timeout=0)
    container.reload()
    assert (container.name, container.status, container.attrs["State"]["ExitCode"]) == ("d", "exited", 137)
    brief = client.containers.run("busybox", ["sh", "-c", "exit 3"], detach=True, auto_remove=True)
    wait_until(lambda: brief.id not in [each["Id"] for each in client.api.containers(all=True)], "it is gone")
    assert brief.wait()["StatusCode"] == 3, "who waits a moment too late hears it, too"
    assert client.version()["Arch"] == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    with pytest.raises(APIError, match="already in use") as refused:
        client.api.create_container("busybox", "true", name="d")
    assert refused.value.status_code == 409


@together
def test_the_health_of_an_image_s_own_check_is_shown(client: Any) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(client.images.get("busybox").save()))) as saved:
        manifest = saved.extractfile("manifest.json")
        assert manifest is not None
        root = saved.extractfile(json.load(manifest)[0]["Layers"][0])
        assert root is not None
        change = "HEALTHCHECK --interval=100ms --retries=2 CMD cat /well"
        client.api.import_image_from_data(root.read(), repository="checked", tag="1", changes=[change])
    checked = client.containers.run("checked:1", ["sh", "-c", "echo yes > /well; sleep 1000"], detach=True)
    unchecked = client.containers.run(
        "checked:1", ["sleep", "1000"], detach=True, healthcheck={"test": ["NONE"]}, name="unchecked"
    )
    assert checked.attrs["Config"]["Healthcheck"] == {
        "Test": ["CMD-SHELL", "cat /well"], "Interval": 100_000_000, "Retries": 2
    }  # fmt: skip

    def health() -> Any:
        checked.reload()
        return checked.attrs["State"]["Health"]

    wait_until(lambda: health()["Status"] == "healthy", "healthy")
    last = health()["Log"][-1]
    assert (last["ExitCode"], last["Output"]) == (0, "yes")
    assert last["Start"] < last["End"]
    assert client.containers.list(filters={"health": "healthy"}) == [checked]
    assert client.api.containers(filters={"id": checked.id})[0]["Status"].endswith("(healthy)")
    unchecked.reload()
    assert "Health" not in unchecked.attrs["State"]
    checked.exec_run(["rm", "/well"])
    wait_until(lambda: health()["Status"] == "unhealthy", "unhealthy")
    assert health()["FailingStreak"] >= 2
    assert [entry["ExitCode"] for entry in health()["Log"]][-2:] == [1, 1]
    assert "/well" in health()["Log"][-1]["Output"]
    checked.reload()
    assert checked.status == "running", "as Docker has it, it runs on"
    client.services.create(
        "checked:1", ["sh", "-c", "touch /well; trap 'exit 0' TERM; sleep 1000 & wait"], name="asked"
    )
    [task] = wait_until(lambda: client.containers.list(filters={"health": "healthy"}), "a task that is healthy")
    assert task.name.startswith("asked.1.")
    client.services.get("asked").remove()
    wait_until(lambda: not client.containers.list(filters={"name": "asked"}), "the task gone")


@together
def test_files_go_in_and_out_of_a_container_that_runs_and_one_that_does_not(client: Any) -> None:
    def tar_of(name: str, content: bytes) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        return made.getvalue()

    def content_of(path: str) -> bytes:
        parts, stat = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
            found = archive.extractfile(stat["name"])
            assert found is not None
            return found.read()

    container = client.containers.create("busybox", ["sh", "-c", "ln -s / /t/up; exec sleep 1000"])
    assert container.put_archive("/", tar_of("t/new", b"before it ran"))
    container.start()
    wait_until(lambda: container.exec_run(["test", "-L", "/t/up"]).exit_code == 0, "it runs")
    assert container.exec_run(["cat", "/t/new"]).output == b"before it ran"
    assert container.put_archive("/t/up", tar_of("inner", b"through a link"))
    assert container.exec_run(["cat", "/inner"]).output == b"through a link", "the container's root, not the node's"
    container.stop(timeout=0)
    assert content_of("/inner") == b"through a link"
    assert content_of("/t/up/t/new") == b"before it ran"
    with pytest.raises(NotFound, match="Could not find the file /missing"):
        container.get_archive("/missing")
    with pytest.raises(APIError, match="not a directory"):
        container.put_archive("/inner", tar_of("x", b""))


@together
def test_events_tell_of_them(client: Any) -> None:
    with closing(client.events(decode=True, filters={"type": ["container"]})) as events:
        container = client.containers.run(
            "busybox", ["sh", "-c", "exit 3"], detach=True, name="short", labels={"a": "b"}
        )
        container.wait()
        container.remove()
        seen = []
        for event in events:
            if event["Actor"]["Attributes"].get("a") != "b":
                # An earlier test's container goes.
                continue
            seen.append((event["Action"], event["Actor"]["Attributes"].get("exitCode")))
            if event["Action"] == "destroy":
                break
    assert seen == [("create", None), ("start", None), ("die", "3"), ("destroy", None)]


@together
def test_they_outlive_the_worker_and_a_loss_of_power(client: Any, lab: Lab) -> None:
    script = ["sh", "-c", "echo x >>/runs; wc -l </runs; exec sleep 1000"]
    always = client.containers.run("busybox", script, detach=True, restart_policy={"Name": "always"})
    never = client.containers.run("busybox", script, detach=True)
    stopped = client.containers.run("busybox", script, detach=True)
    stopped.stop(timeout=0)
    node = lab.nodes["m1"]
    pid = always.attrs["State"]["Pid"] or client.containers.get(always.id).attrs["State"]["Pid"]
    kill_worker = "for p in /proc/[0-9]*; do grep -qs 'flota.worke[r]' $p/cmdline && kill -9 ${p#/proc/}; done; true"
    node.exec(["sh", "-c", kill_worker])

    def shown(container: Any) -> dict[str, Any]:
        state: dict[str, Any] = client.containers.get(container.id).attrs["State"]
        return state

    def goes_on() -> bool:
        try:
            return shown(always)["Running"] and always.exec_run(["true"]).exit_code == 0
        except APIError:
            return False

    wait_until(goes_on, "the next worker looks after it")
    assert shown(always)["Pid"] == pid
    assert shown(never)["Running"]
    assert shown(stopped)["ExitCode"] == 137

    lab.kill("m1")
    lab.start("m1")

    def is_back() -> bool:
        try:
            return shown(always)["Running"] and always.exec_run(["wc", "-l", "/runs"]).output == b"2 /runs\n"
        except (APIError, OSError):
            return False

    wait_until(is_back, "it runs again, on the files it had")
    assert shown(never)["Status"] == "exited"
    wait_until(lambda: always.logs() == b"1\n2\n", "it says so")
    never.start()
    wait_until(lambda: never.logs() == b"1\n2\n", "started again by hand")


@together
def test_networks_can_be_changed_while_it_does_not_run(client: Any) -> None:
    first, second = (client.networks.create(name, driver="bridge") for name in ("first", "second"))
    container = client.containers.create("busybox", ["sleep", "1000"], network="first")
    second.connect(container, aliases=["known"])
    container.start()
    container.reload()
    assert set(container.attrs["NetworkSettings"]["Networks"]) == {"first", "second"}
    asked = client.containers.run("busybox", ["nslookup", "known."], network="second", remove=True)
    address = container.attrs["NetworkSettings"]["Networks"]["second"]["IPAddress"]
    assert f"Address: {address}".encode() in asked
    container.stop(timeout=0)
    first.disconnect(container)
    container.start()
    container.reload()
    assert set(container.attrs["NetworkSettings"]["Networks"]) == {"second"}
    container.remove(force=True)
    first.remove()
    second.remove()


@together
def test_a_port_of_one_address_is_reached_by_that_one_only(client: Any, lab: Lab) -> None:
    node = lab.nodes["m1"]
    serve = ["sh", "-c", "echo inside >/index.html; exec httpd -f -p 80 -h /"]
    ports = {"80/tcp": ("127.0.0.1", 8085)}
    client.containers.run("busybox", serve, detach=True, ports=ports)

    def page(address: str) -> str:
        fetch = f"import urllib.request as u; print(u.urlopen('http://{address}:8085/', timeout=5).read().decode())"
        return node.exec([sys.executable, "-c", fetch], check=False).stdout.strip()

    wait_until(lambda: page("127.0.0.1") == "inside", "the loopback")
    assert page(node.address) == ""
    with pytest.raises(APIError, match=r"192\.0\.2\.1 is no address of this node"):
        client.containers.run("busybox", serve, detach=True, ports={"80/tcp": ("192.0.2.1", 8087)})


@together
def test_what_takes_room_is_counted_once(client: Any) -> None:
    """Layers that two images share; what a container wrote; what its removal gives back."""
    written = client.containers.run("busybox", ["dd", "if=/dev/zero", "of=/data", "bs=1024", "count=300"], detach=True)
    assert written.wait()["StatusCode"] == 0
    layered = written.commit("layered", "1")
    (base,) = (image for image in client.images.list() if "busybox:latest" in image.tags)
    sizes = {step["Tags"][0]: step["Size"] for step in layered.history() if step["Tags"]}
    assert sizes == {"layered:1": 300 << 10}
    used = client.df()
    assert used["LayersSize"] < 2 * base.attrs["Size"] + (300 << 10)
    users = {image["RepoTags"][0]: image["Containers"] for image in used["Images"]}
    assert (users["busybox:latest"], users["layered:1"]) == (1, 0)
    (shown,) = used["Containers"]
    assert (shown["SizeRw"], shown["SizeRootFs"]) == (300 << 10, base.attrs["Size"] + (300 << 10))
    assert client.containers.prune()["SpaceReclaimed"] == 300 << 10
    client.images.remove("layered:1")
    with pytest.raises(APIError, match="searches no registry") as refused:
        client.images.search("busybox")
    assert refused.value.status_code == 501


@together
async def test_a_web_socket_leads_to_a_container_s_program(client: Any, lab: Lab) -> None:
    container = client.containers.run("busybox", ["cat"], detach=True, stdin_open=True)
    connector = aiohttp.UnixConnector(f"{lab.nodes['m1'].run_directory}/flota/docker.sock")
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"http://docker/v1.41/containers/{container.id}/attach/ws?stream=1&stdin=1&stdout=1"
        async with session.ws_connect(url) as wire:
            await wire.send_bytes(b"through and back\n")
            assert (await wire.receive(timeout=60)).data == b"through and back\n"
            container.kill()
            assert (await wire.receive(timeout=60)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
