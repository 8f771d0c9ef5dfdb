"""`docker network connect` and `disconnect` of containers that run, with Docker's own clients."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound

from flota.node.lab import Lab
from tests.cluster.gateway.course import CONNECT, DEBIAN, Machines, play
from tests.cluster.labs import lab_up
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
together = pytest.mark.xdist_group("connect")


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's docker client could not be fetched (setup/install.sh)")
def test_networks_are_changed_as_docker_changes_them(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """Each answer is the one that Docker 20.10.24 gave."""
    lab = make_lab(managers=1, workers=1, swarm=False)
    with closing(_client(lab, "m1")) as client:
        # In no swarm there are networks of the node, too; this one lives on when the node is in one.
        lan = client.networks.create("alone", driver="bridge")
        out = client.containers.run("busybox", _HTTPD, detach=True, name="lone", ports={"80/tcp": 8096})
        wait_until(lambda: _answers(lab, 8096), "the port answers")
        lan.connect(out)
        client.networks.get("bridge").disconnect(out)
        wait_until(lambda: _answers(lab, 8096), "by another network, in no swarm")
    play(Machines(lab, DEBIAN, "flota/docker.sock", tmp_path), CONNECT)
    assert _answers(lab, 8096)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A manager and a worker."""
    with lab_up(managers=1, workers=1) as lab:
        yield lab


def _client(lab: Lab, node: str) -> Any:
    return docker.DockerClient(base_url=f"unix://{lab.nodes[node].run_directory}/flota/docker.sock", timeout=90)


@pytest.fixture
def m1(lab: Lab) -> Iterator[Any]:
    """The manager's Docker API; what was made through it is gone afterwards."""
    with closing(_client(lab, "m1")) as client:
        yield client
        _clean(client)


@pytest.fixture
def w1(lab: Lab) -> Iterator[Any]:
    """The worker's."""
    with closing(_client(lab, "w1")) as client:
        yield client
        _clean(client)


def _clean(client: Any) -> None:
    for container in client.containers.list(all=True, ignore_removed=True):
        if "com.docker.swarm.service.id" not in container.labels:
            container.remove(force=True)


_HTTPD = ["sh", "-c", "httpd -p 80; exec sleep 1000"]


def _answers(lab: Lab, port: int) -> bool:
    """Whether a web server answers at a port of m1."""
    node = lab.nodes["m1"]
    asking = f"c = h.HTTPConnection('{node.address}', {port}, timeout=5); c.request('GET', '/')"
    program = f"import http.client as h; {asking}; print(c.getresponse().status)"
    return "404" in node.exec([sys.executable, "-c", program], check=False).stdout


def _sleeper(client: Any, name: str, network: str, **options: Any) -> Any:
    return client.containers.run("busybox", ["sleep", "1000"], detach=True, name=name, network=network, **options)


def _networks(container: Any) -> dict[str, Any]:
    container.reload()
    found: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    return found


def _leads_to(container: Any, name: str) -> str:
    """The address that a name leads to in the container; empty if to none."""
    script = f"ping -c 1 -W 1 {name} 2>&1 | sed -n '1s/.*(\\(.*\\)):.*/\\1/p'"
    return bytes(container.exec_run(["sh", "-c", script]).output).decode().strip()


def _used(lab: Lab, network: str) -> int:
    """Addresses of the network that are given out."""
    listed = lab.nodes["m1"].flota("network", "ls", "--filter", f"name={network}", "--format", "{{.Use}}")
    return int(listed.partition("/")[0])


def _routes(container: Any) -> str:
    return bytes(container.exec_run(["sh", "-c", "ip route show default | grep ^default"]).output).decode().strip()


def _goes(network: Any) -> bool:
    try:
        network.remove()
    except APIError:
        return False
    return True


@together
def test_a_container_that_runs_joins_a_network_of_another_node_s_service_and_leaves_it(
    lab: Lab, m1: Any, w1: Any
) -> None:
    one = m1.networks.create("one", driver="overlay", attachable=True)
    two = m1.networks.create("two", driver="overlay", attachable=True)
    where: dict[str, Any] = {"networks": ["two"], "constraints": ["node.hostname==w1"]}
    service = m1.services.create("busybox", ["httpd", "-f", "-p", "80"], name="web", stop_grace_period=0, **where)
    al = _sleeper(m1, "al", "one")
    pid = al.attrs["State"]["Pid"] or m1.containers.get("al").attrs["State"]["Pid"]
    wait_until(lambda: any(task["Status"]["State"] == "running" for task in service.tasks()), "the service runs")
    far = _sleeper(w1, "far", "two")
    before = _used(lab, "two")
    assert not _leads_to(al, "web")

    with closing(m1.events(decode=True, filters={"type": ["network"], "event": ["connect", "disconnect"]})) as events:
        two.connect(al, aliases=["mine"])

        def web_answers() -> bool:
            return b"404" in al.exec_run(["wget", "-q", "-O", "-", "http://web"]).output

        wait_until(web_answers, "the service answers by its virtual address, across nodes")
        address = _networks(al)["two"]["IPAddress"]
        for name in ("al", "mine", al.id[:12]):
            wait_until(lambda name=name: _leads_to(far, name) == address, f"{name} leads to it from the other node")
        assert far.exec_run(["ping", "-c", "1", "-W", "5", address]).exit_code == 0
        assert _used(lab, "two") == before + 1
        assert [each["Name"] for each in m1.networks.get("two").attrs["Containers"].values()] == ["al"]
        with pytest.raises(APIError, match="already attached to network two") as refused:
            two.connect(al)
        assert refused.value.status_code == 409

        two.disconnect(al)
        assert not _leads_to(al, "web")
        assert set(_networks(al)) == {"one"}
        wait_until(lambda: not _leads_to(far, "mine") and not _leads_to(far, "al"), "no name leads to it")
        wait_until(lambda: _used(lab, "two") == before, "its address is free again")
        seen = [next(events)["Actor"]["Attributes"] | {"action": None} for _ in range(2)]
    assert seen == 2 * [{"container": al.id, "name": "two", "type": "overlay", "action": None}]
    assert (al.attrs["State"]["Pid"], al.attrs["RestartCount"]) == (pid, 0)
    service.remove()
    far.remove(force=True)
    wait_until(lambda: _goes(two), "nothing is left on the network")
    with pytest.raises(APIError, match="al"):
        one.remove()
    one.disconnect(al)
    wait_until(lambda: _goes(one), "nor on the other")


@together
def test_addresses_are_given_back_however_often_a_container_comes_and_goes(lab: Lab, m1: Any, w1: Any) -> None:
    """A network of five addresses for containers; the worker knows networks by their names alone."""
    ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.85.0.0/29")])
    small = m1.networks.create("small", driver="overlay", attachable=True, ipam=ipam)
    lan = w1.networks.create("lan", driver="bridge", ipam=ipam_of("172.30.8.0/29"))
    far = _sleeper(w1, "far", "lan")
    for _ in range(7):
        w1.api.connect_container_to_network("far", "small")
        assert _networks(far)["small"]["IPAddress"].startswith("10.85.0.")
        w1.api.disconnect_container_from_network("far", "small")
        lan.disconnect(far)
        assert _networks(far) == {}
        lan.connect(far, ipv4_address="172.30.8.5")
    wait_until(lambda: _used(lab, "small") == 0, "none is kept")

    near = _sleeper(m1, "near", "small")
    address = _networks(near)["small"]["IPAddress"]
    with pytest.raises(APIError, match="Address already in use") as refused:
        w1.api.connect_container_to_network("far", "small", ipv4_address=address)
    assert refused.value.status_code == 403
    with pytest.raises(APIError, match="does not belong to any of this network's subnets"):
        w1.api.connect_container_to_network("far", "small", ipv4_address="10.85.9.1")
    with pytest.raises(APIError, match="--link is not supported"):
        w1.api.connect_container_to_network("far", "small", links=[("near", "it")])
    assert set(_networks(far)) == {"lan"}
    assert _used(lab, "small") == 1
    near.remove(force=True)
    wait_until(lambda: _goes(small), "nothing is left on it")


def ipam_of(subnet: str) -> Any:
    """For a network's creation."""
    return docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=subnet)])


@together
def test_the_way_out_and_published_ports_follow(lab: Lab, m1: Any) -> None:
    left, right = (m1.networks.create(name, driver="bridge") for name in ("left", "right"))
    out = m1.containers.run(
        "busybox", _HTTPD, detach=True, name="out", hostname="box", network="left", ports={"80/tcp": 8097}
    )
    gateway = {net.name: net.attrs["IPAM"]["Config"][0]["Gateway"] for net in map(m1.networks.get, ("left", "right"))}

    def answers() -> bool:
        return _answers(lab, 8097)

    def own() -> str:
        hosts = bytes(out.exec_run(["cat", "/etc/hosts"]).output).decode()
        return next(line.split()[0] for line in hosts.splitlines() if "box" in line.split()[1:])

    wait_until(answers, "the port answers")
    right.connect(out)
    assert f"via {gateway['left']} " in _routes(out), "of equal ones the first by name, as Docker has it"
    right.disconnect(out)
    body = {"Container": out.id, "EndpointConfig": {"GwPriority": 5}}
    done = m1.api._post(m1.api._url(f"/networks/{right.id}/connect"), data=json.dumps(body), headers=_JSON)
    assert done.status_code == 200, done.text
    assert f"via {gateway['right']} " in _routes(out)
    assert _networks(out)["right"]["GwPriority"] == 5
    wait_until(answers, "the port answers through the new way out")
    assert own() == _networks(out)["left"]["IPAddress"]
    left.disconnect(out)
    assert own() == _networks(out)["right"]["IPAddress"]
    wait_until(answers, "and when the old one is gone")
    left.connect(out)
    assert f"via {gateway['right']} " in _routes(out)
    right.disconnect(out)
    assert f"via {gateway['left']} " in _routes(out)
    wait_until(answers, "and back")
    with pytest.raises(APIError, match=r'has active endpoints \(name:"out"') as refused:
        left.remove()
    assert refused.value.status_code == 403
    right.remove()


_JSON = {"Content-Type": "application/json"}


@together
def test_ipv6_comes_and_goes_with_its_network(m1: Any, w1: Any) -> None:
    m1.networks.create("lan4", driver="bridge")
    ipam = docker.types.IPAMConfig(
        pool_configs=[docker.types.IPAMPool(subnet="10.86.0.0/24"), docker.types.IPAMPool(subnet="fd00:86::/64")]
    )
    six = m1.networks.create("six", driver="overlay", attachable=True, enable_ipv6=True, ipam=ipam)
    al, far = _sleeper(m1, "al6", "lan4"), _sleeper(w1, "far6", "six")
    six.connect(al, ipv6_address="fd00:86::77")
    assert _networks(al)["six"]["GlobalIPv6Address"] == "fd00:86::77"
    ping = ["ping", "-6", "-c", "1", "-W", "1", "al6"]
    wait_until(lambda: far.exec_run(ping).exit_code == 0, "it is reached by IPv6, across nodes")
    default = ["sh", "-c", "ip -6 route show default | grep -c ^default"]
    assert al.exec_run(default).output == b"1\n"
    six.disconnect(al)
    assert al.exec_run(default).output == b"0\n"
    far.remove(force=True)
    wait_until(lambda: _goes(six), "nothing is left on it")


@together
def test_changes_at_the_same_time_leave_one_truth(m1: Any) -> None:
    lan = m1.networks.create("lan1", driver="bridge")
    others = [m1.networks.create(f"other{n}", driver="overlay", attachable=True) for n in range(3)]
    al = _sleeper(m1, "busy", "lan1")

    def connected(network: Any) -> bool:
        try:
            network.connect(al)
        except APIError as error:
            return "already attached" not in str(error)
        return True

    with ThreadPoolExecutor(9) as threads:
        results = list(threads.map(connected, 3 * others))
    assert [sum(results[n::3]) for n in range(3)] == [1, 1, 1]
    assert set(_networks(al)) == {"lan1", "other0", "other1", "other2"}

    # While it stops: it is either on the network until it has ended, or from its next start on.
    others[0].disconnect(al)
    stopping = threading.Thread(target=lambda: al.stop(timeout=1))
    stopping.start()
    others[0].connect(al)
    others[1].disconnect(al)
    stopping.join()
    al.start()
    wanted = {"lan1", "other0", "other2"}
    wait_until(lambda: _is_on(al, wanted), "started again it is where it should be")
    interfaces = bytes(al.exec_run(["sh", "-c", "ls /sys/class/net | grep -c eth"]).output)
    assert interfaces == b"3\n"
    al.remove(force=True)
    for network in others:
        wait_until(lambda network=network: _goes(network), "nothing is left on any")
    lan.remove()


def _is_on(container: Any, wanted: set[str]) -> bool:
    there = _networks(container)
    return set(there) == wanted and all(each["IPAddress"] for each in there.values())


@together
def test_what_was_changed_outlives_the_worker_and_a_loss_of_power(lab: Lab, m1: Any, w1: Any) -> None:
    lan = m1.networks.create("lan2", driver="bridge")
    span = m1.networks.create("span2", driver="overlay", attachable=True)
    gone = m1.networks.create("gone2", driver="overlay", attachable=True)
    far = _sleeper(w1, "far2", "span2")
    al = _sleeper(m1, "al2", "gone2", restart_policy={"Name": "always"})
    lan.connect(al)
    span.connect(al, aliases=["mine2"])
    gone.disconnect(al)
    address = _networks(al)["span2"]["IPAddress"]
    kill_worker = "for p in /proc/[0-9]*; do grep -qs 'flota.worke[r]' $p/cmdline && kill -9 ${p#/proc/}; done; true"
    lab.nodes["m1"].exec(["sh", "-c", kill_worker])

    def is_there() -> bool:
        try:
            return _is_on(al, {"lan2", "span2"}) and _leads_to(al, "far2") != ""
        except (APIError, OSError):
            return False

    wait_until(is_there, "the next worker knows it as it was", 60)
    assert _networks(al)["span2"]["IPAddress"] == address
    wait_until(lambda: _leads_to(far, "mine2") == address, "and so do others")
    gone.connect(al)
    gone.disconnect(al)
    lan.disconnect(al)
    assert set(_networks(al)) == {"span2"}

    lab.kill("m1")
    lab.start("m1")

    def is_back() -> bool:
        try:
            return _is_on(al, {"span2"}) and _leads_to(al, "far2") != ""
        except (APIError, OSError):
            return False

    wait_until(is_back, "it starts on the networks it was on", 60)
    address = _networks(al)["span2"]["IPAddress"]
    wait_until(lambda: _leads_to(far, "mine2") == address, "and is found there")
    with pytest.raises(NotFound):
        m1.api.connect_container_to_network("al2", "nowhere")
    al.remove(force=True)
    far.remove(force=True)
    for network in (span, gone):
        wait_until(lambda network=network: _goes(network), "nothing is left")
    lan.remove()
