"""Containers of a real worker, told by a real dispatcher: start, stop, fail, and what the managers learn of it."""

import asyncio

from flota.v1.objects_pb2 import Config, Network, Secret
from flota.v1.specs_pb2 import ContainerSpec
from flota.v1.types_pb2 import (
    Annotations,
    FileTarget,
    HealthConfig,
    IpamConfig,
    Mount,
    NetworkAttachment,
    PortConfig,
    TaskState,
)
from tests.cluster.worker.machine import Cluster, alive, eventually, seconds

STARTING, RUNNING, COMPLETE = (
    TaskState.TASK_STATE_STARTING, TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_COMPLETE,
)  # fmt: skip
READY, FAILED, REJECTED = TaskState.TASK_STATE_READY, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED
SHUTDOWN, REMOVE = TaskState.TASK_STATE_SHUTDOWN, TaskState.TASK_STATE_REMOVE


async def test_a_task_runs_and_ends_when_it_is_told_to(cluster: Cluster) -> None:
    await cluster.boot()
    task = cluster.task("one", "trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 0.05; done")
    await cluster.swarm.create(task)
    pid = (await cluster.until(task, RUNNING)).container.pid
    await eventually(lambda: cluster.output(task) == ["ready"])
    await cluster.want(task, SHUTDOWN)
    status = await cluster.until(task, SHUTDOWN)
    assert (status.container.exit_code, status.error) == (0, "")
    assert not alive(pid)
    await eventually(lambda: not cluster.has_container(task))
    # What it said can be asked for as long as the managers know it.
    assert cluster.output(task) == ["ready", "bye"]
    await cluster.swarm.remove(task.id)
    await eventually(lambda: not cluster.log_file(task).exists())


async def test_one_that_does_not_listen_is_killed_after_its_grace(cluster: Cluster) -> None:
    await cluster.boot()
    task = cluster.task(
        "deaf", "trap '' TERM; echo ready; while true; do sleep 0.05; done", stop_grace_period=seconds(0.3)
    )
    hasty = cluster.task("hasty", "sleep", "1000", stop_grace_period=seconds(0))
    await cluster.swarm.create(task, hasty)
    await cluster.until(task, RUNNING)
    await cluster.until(hasty, RUNNING)
    await eventually(lambda: cluster.output(task) == ["ready"])
    for one in (task, hasty):
        await cluster.want(one, SHUTDOWN)
        assert (await cluster.until(one, SHUTDOWN)).container.exit_code == 137


async def test_the_stop_signal_is_the_specs(cluster: Cluster) -> None:
    await cluster.boot()
    task = cluster.task("usr1", "trap 'exit 7' USR1; echo ready; while true; do sleep 0.05; done", stop_signal="USR1")
    await cluster.swarm.create(task)
    await cluster.until(task, RUNNING)
    await eventually(lambda: cluster.output(task) == ["ready"])
    await cluster.want(task, SHUTDOWN)
    assert (await cluster.until(task, SHUTDOWN)).container.exit_code == 7


async def test_an_end_by_itself_is_told_with_its_code(cluster: Cluster) -> None:
    await cluster.boot()
    good, bad = cluster.task("good", "true"), cluster.task("bad", "echo oh; exit 3")
    await cluster.swarm.create(good, bad)
    done, failed = await cluster.until(good, COMPLETE), await cluster.until(bad, FAILED)
    assert (done.container.exit_code, done.error) == (0, "")
    assert (failed.container.exit_code, failed.error) == (3, "task: non-zero exit (3)")
    assert cluster.output(bad) == ["oh"]
    assert len({done.container.container_id, failed.container.container_id}) == 2


async def test_what_cannot_be_prepared_is_rejected_and_says_why(cluster: Cluster) -> None:
    await cluster.boot()
    missing = cluster.task("missing", "true")
    missing.spec.container.image = "nothing:1"
    nowhere = cluster.task("nowhere", "/bin/nothing")
    bind = cluster.task("bind", "true", mounts=[Mount(type=Mount.TYPE_BIND, source="/not/there", target="/x")])
    template = cluster.task("template", "true", env=["A={{.Service.Nmae}}"])
    await cluster.swarm.create(missing, nowhere, bind, template)
    assert "no such image: nothing:1" in (await cluster.until(missing, REJECTED)).error
    assert "'/bin/nothing', is not in the image" in (await cluster.until(nowhere, REJECTED)).error
    assert "'/not/there' (bind): there is no such path" in (await cluster.until(bind, REJECTED)).error
    assert "did you mean 'Name'?" in (await cluster.until(template, REJECTED)).error
    assert not any(map(cluster.has_container, (missing, nowhere, bind, template)))


async def test_one_that_is_wanted_ready_waits_for_its_turn(cluster: Cluster) -> None:
    await cluster.boot()
    task = cluster.task("next", "sleep", "1000")
    task.desired_state = READY
    other = cluster.task("never", "sleep", "1000")
    other.desired_state = READY
    await cluster.swarm.create(task, other)
    assert not (await cluster.until(task, READY)).container.pid
    await cluster.until(other, READY)
    await cluster.want(task, RUNNING)
    assert alive((await cluster.until(task, RUNNING)).container.pid)
    await cluster.want(other, SHUTDOWN)
    await cluster.until(other, SHUTDOWN)
    await eventually(lambda: not cluster.has_container(other))


async def test_health_decides_when_it_runs_and_that_it_fails(cluster: Cluster) -> None:
    await cluster.boot()
    check = HealthConfig(
        test=["CMD-SHELL", "test -e /tmp/well || { echo not well; exit 1; }"],
        interval=seconds(0.1), retries=2, start_period=seconds(600), start_interval=seconds(0.05),
    )  # fmt: skip
    volume = cluster.machine.directory / "shared"
    volume.mkdir()
    task = cluster.task(
        "health", "sleep", "1000", healthcheck=check, stop_grace_period=seconds(0),
        mounts=[Mount(type=Mount.TYPE_BIND, source=str(volume), target="/tmp")],
    )  # fmt: skip
    await cluster.swarm.create(task)
    pid = (await cluster.until(task, STARTING)).container.pid
    assert alive(pid)
    (volume / "well").touch()
    await cluster.until(task, RUNNING)
    (volume / "well").unlink()
    status = await cluster.until(task, FAILED)
    assert status.error == "unhealthy: the health check failed 2 times in a row, at last: exit code 1: not well"
    assert not alive(pid)


async def test_templates_secrets_and_configs(cluster: Cluster) -> None:
    await cluster.boot()
    secret, config = Secret(id="s1"), Config(id="c1")
    secret.spec.annotations.name, secret.spec.data = "password", b"hidden"
    config.spec.annotations.name, config.spec.template_driver = "settings", "golang"
    config.spec.data = b'{{.Service.Name}} on {{.Node.Hostname}}: {{env "MODE"}}, {{secret "pw"}}\n'
    task = cluster.task(
        "files", "echo $HOSTNAME $MODE; ls -ln /run/secrets/pw; cat /etc/app.conf",
        hostname="{{.Service.Name}}-{{.Task.Slot}}", env=["MODE={{index .Service.Labels \"mode\"}}"],
    )  # fmt: skip
    task.service_annotations.labels["mode"] = "fast"
    container: ContainerSpec = task.spec.container
    container.secrets.add(secret_id="s1", secret_name="password", file=FileTarget(name="pw", uid="5", mode=0o400))
    container.configs.add(config_id="c1", config_name="settings", file=FileTarget(name="/etc/app.conf"))
    await cluster.swarm.create(secret, config, task)
    await cluster.until(task, COMPLETE)
    name, listing, rendered = cluster.output(task)
    assert name == "web-1 fast"
    assert listing.split()[:4] == ["-r--------", "1", "5", "0"]
    assert rendered == "web on machine-one: fast, hidden"


async def test_tasks_find_each_other_on_their_network(cluster: Cluster) -> None:
    await cluster.boot()
    network = Network(id="n1".ljust(25, "0"), vni=4096, ipam=[IpamConfig(subnet="10.77.0.0/24", gateway="10.77.0.1")])
    network.spec.annotations.CopyFrom(Annotations(name="front"))
    server = cluster.task("server", "echo hello > /tmp/hello; nc -ll -p 80 -e cat /tmp/hello")
    client = cluster.task("client", "until nc web.2 80 2>/dev/null; do sleep 0.05; done")
    server.slot = 2
    for number, task in enumerate((server, client), 5):
        task.networks.append(NetworkAttachment(network_id=network.id, addresses=[f"10.77.0.{number}/24"]))
    await cluster.swarm.create(network, server, client)
    await cluster.until(client, COMPLETE)
    assert cluster.output(client) == ["hello"]


async def test_a_port_of_the_node_leads_to_the_task(cluster: Cluster) -> None:
    await cluster.boot()
    network = Network(id="n1".ljust(25, "0"), vni=4096, ipam=[IpamConfig(subnet="10.77.0.0/24", gateway="10.77.0.1")])
    task = cluster.task("server", "echo hello > /tmp/hello; nc -ll -p 80 -e cat /tmp/hello")
    task.networks.append(NetworkAttachment(network_id=network.id, addresses=["10.77.0.5/24"]))
    task.endpoint.ports.add(target_port=80, published_port=8080, publish_mode=PortConfig.PUBLISH_MODE_HOST)
    await cluster.swarm.create(network, task)
    (port,) = (await cluster.until(task, RUNNING)).ports.ports
    assert (port.target_port, port.published_port) == (80, 8080)
    async with asyncio.timeout(60):
        answer = b""
        while answer != b"hello\n":
            await asyncio.sleep(0.02)
            answer = await _ask(cluster.machine.address, 8080)
    await cluster.machine.kill()
    await cluster.boot()
    assert list((await cluster.until(task, RUNNING)).ports.ports) == [port]
    await cluster.want(task, SHUTDOWN)
    assert not (await cluster.until(task, SHUTDOWN)).ports.ports


async def _ask(address: str, port: int) -> bytes:
    """What is said there; nothing when nobody is."""
    try:
        reader, writer = await asyncio.open_connection(address, port)
        answer = await reader.read()
        writer.close()
        return answer
    except OSError:
        return b""


async def test_fifty_at_once(cluster: Cluster) -> None:
    await cluster.boot()
    tasks = [cluster.task(f"many{number:02d}", "sleep", "1000", stop_grace_period=seconds(0)) for number in range(50)]
    await cluster.swarm.create(*tasks)
    pids = [(await cluster.until(task, RUNNING)).container.pid for task in tasks]
    assert len(set(pids)) == 50
    assert all(map(alive, pids))
    await cluster.swarm.change_all([task.id for task in tasks], lambda one: setattr(one, "desired_state", REMOVE))
    for task in tasks:
        await cluster.until(task, SHUTDOWN)
    assert not any(map(alive, pids))
    await eventually(lambda: not any(map(cluster.has_container, tasks)))
