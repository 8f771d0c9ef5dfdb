"""`flota stack` against the real control API, orchestrators and scheduler, with agents that really act."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flota.stacks.translation.names import NAMESPACE
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NodeState, TaskState
from tests.unit.cli.conftest import Flota, Ran
from tests.unit.cli.daemon import Daemon

# What makes a wait short: nothing has to be watched, nothing is slow to stop.
QUICK = """
x-quick: &quick
  stop_grace_period: 0s
  deploy: &deploy
    restart_policy: &restart {delay: 0s}
    update_config: &update {monitor: 10ms}
"""
SHOP = (
    QUICK
    + """
services:
  web:
    <<: *quick
    image: web:${VERSION:-1}
    deploy: {<<: *deploy, replicas: 2}
    configs: [page]
  db:
    <<: *quick
    image: db
    secrets: [password]
    networks: [default, back]
networks:
  back: {internal: true}
secrets:
  password: {environment: DB_PASSWORD}
configs:
  page: {content: hello}
"""
)
UNCHANGED = "Nothing changed: stack shop is what the files say"
# It runs for a moment, again and again: only somebody who looks for long enough sees that it is not well.
CRASH = """
services:
  web: {image: crash, deploy: {restart_policy: {delay: 0s}, update_config: {monitor: 60s}}}
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DB_PASSWORD", "geheim")
    return write(tmp_path, SHOP)


def write(folder: Path, text: str, name: str = "compose.yml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def deploy(flota: Flota, file: Path, *argv: str, name: str = "shop") -> Ran:
    return flota("stack", "deploy", "-c", str(file), *argv, name)


def names_of(daemon: Daemon, kind: str) -> set[str]:
    return {each.spec.annotations.name for each in getattr(daemon.cluster.store, kind)}


def test_deploy_makes_everything_in_order_and_waits(working: Daemon, flota: Flota, shop: Path) -> None:
    done = deploy(flota, shop)
    assert (done.status, done.err) == (0, "")
    assert done.lines[:6] == [
        "Creating network shop_back",
        "Creating network shop_default",
        "Creating secret shop_password",
        "Creating config shop_page",
        "Creating service shop_web",
        "Creating service shop_db",
    ]
    assert "shop_web: overall progress: 2 out of 2 tasks" in done.lines
    assert "shop_web: verify: Service shop_web converged" in done.lines
    assert "shop_db: verify: Service shop_db converged" in done.lines
    web = working.cluster.service("shop_web").spec
    assert dict(web.annotations.labels) == {NAMESPACE: "shop", "com.docker.stack.image": "web:1"}
    assert dict(web.task.container.labels) == {NAMESPACE: "shop"}
    network = working.cluster.store.networks.get(web.task.networks[0].target)
    assert network is not None
    assert network.spec.annotations.name == "shop_default"
    assert list(web.task.networks[0].aliases) == ["web"]
    secret = working.cluster.store.secrets.by_name("shop_password")
    assert secret is not None
    assert secret.spec.data == b"geheim"
    assert dict(secret.spec.annotations.labels)[NAMESPACE] == "shop"
    assert working.cluster.service("shop_db").spec.task.container.secrets[0].secret_id == secret.id


def test_the_same_again_changes_nothing_and_says_so(working: Daemon, flota: Flota, shop: Path) -> None:
    deploy(flota, shop, "-q")
    version = working.cluster.service("shop_web").meta.version.index
    done = deploy(flota, shop)
    assert (done.status, done.err) == (0, "")
    assert done.lines == ["Service shop_web is unchanged", "Service shop_db is unchanged", UNCHANGED]
    assert working.cluster.service("shop_web").meta.version.index == version


def test_only_what_changed_is_updated(
    working: Daemon, flota: Flota, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(flota, shop, "-q")
    flota("service", "update", "-q", "--force", "shop_web")
    monkeypatch.setenv("VERSION", "2")
    done = deploy(flota, shop)
    assert (done.status, done.err) == (0, "")
    web = working.cluster.service("shop_web")
    assert done.lines[:2] == [f"Updating service shop_web (id: {web.id})", "Service shop_db is unchanged"]
    assert done.lines[-1] == "verify: Service shop_web converged"
    assert web.spec.task.container.image == "web:2"
    assert web.spec.task.force_update == 1, "what --force has counted stays"


def test_an_image_that_was_pinned_stays_pinned_unless_asked(working: Daemon, flota: Flota, shop: Path) -> None:
    pinned = "web:1@sha256:" + "a" * 64
    deploy(flota, shop, "-q")
    flota("service", "update", "-q", "--image", pinned, "shop_web")
    for how in ("changed", "never"):
        assert "Service shop_web is unchanged" in deploy(flota, shop, "--resolve-image", how).lines
        assert working.cluster.service("shop_web").spec.task.container.image == pinned
    deploy(flota, shop, "-q")
    assert working.cluster.service("shop_web").spec.task.container.image == "web:1"


def test_a_service_that_crashes_fails_the_deploy_with_the_reason(working: Daemon, flota: Flota, tmp_path: Path) -> None:
    file = write(tmp_path, CRASH)
    done = deploy(flota, file)
    assert done.status == 1
    assert done.err.startswith("flota: service shop_web does not converge: task shop_web.1 failed ")
    assert deploy(flota, file, "--detach").status == 0


def test_a_service_that_no_node_takes_fails_the_deploy_in_the_end(
    working: Daemon, flota: Flota, tmp_path: Path
) -> None:
    file = write(tmp_path, "services: {web: {image: x, deploy: {placement: {constraints: [node.id==nope]}}}}")
    done = deploy(flota, file, "--timeout", "1s")
    assert done.status == 1
    assert done.err.startswith(
        "flota: nothing has moved for 1s, so the wait is over: service shop_web: 0 of 1 tasks are there, "
        "shop_web.1 is pending: no suitable node ("
    )
    assert deploy(flota, file, "--timeout", "soon").err.startswith(
        "flota: invalid --timeout 'soon': a duration such as"
    )
    (row,) = flota("stack", "history", "--format", "{{.Outcome}}", "shop").lines
    assert row.startswith("nothing has moved for 1s")


def test_prune_removes_what_the_file_no_longer_has(working: Daemon, flota: Flota, shop: Path, tmp_path: Path) -> None:
    deploy(flota, shop, "-q")
    small = write(tmp_path, QUICK + "services: {web: {<<: *quick, image: web}}", "small.yml")
    assert deploy(flota, small, "-q").status == 0
    assert "shop_db" in names_of(working, "services")
    done = deploy(flota, small, "--prune")
    assert (done.status, done.err) == (0, "")
    assert done.lines[0] == "Removing service shop_db"
    gone = ["Removing secret shop_password", "Removing config shop_page", "Removing network shop_back"]
    assert done.lines[-3:] == gone
    assert names_of(working, "services") == {"shop_web"}
    assert not names_of(working, "secrets")
    assert names_of(working, "configs") == {"shop.revision.1", "shop.revision.2", "shop.revision.3"}


def test_what_is_external_must_be_there(working: Daemon, flota: Flota, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
services: {web: {image: web, networks: [out], configs: [c]}}
networks: {out: {external: true, name: world}}
configs: {c: {external: true}}
""",
    )
    done = deploy(flota, file, "-d")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "flota: network 'world' is declared as external, but there is none: make it first "
        "(flota network create world)\n"
    )
    assert flota("network", "create", "world").status == 0
    page = write(tmp_path, "hello", "page")
    assert flota("config", "create", "c", str(page)).status == 0
    assert deploy(flota, file, "-d").lines == ["Creating service shop_web"]
    assert flota("stack", "rm", "shop").lines == ["Removing service shop_web"]
    assert {"world"} <= names_of(working, "networks")


def test_a_network_that_differs_stays_with_a_warning(working: Daemon, flota: Flota, shop: Path) -> None:
    deploy(flota, shop, "-d")
    shop.write_text(SHOP.replace("internal: true", "labels: {a: b}"))
    done = deploy(flota, shop, "-d")
    assert done.status == 0
    assert "network shop_back stays as it is, although the file says something else about internal, labels" in done.err


def test_depends_on_decides_the_order_and_waits_at_the_first_deploy(
    working: Daemon, flota: Flota, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        QUICK
        + """
services:
  web:
    <<: *quick
    image: web
    depends_on: {db: {condition: service_healthy}, migrate: {condition: service_completed_successfully}}
  migrate: {<<: *quick, image: migrate, depends_on: [db], deploy: {mode: replicated-job}}
  db: {<<: *quick, image: db}
""",
    )
    done = deploy(flota, file)
    assert (done.status, done.err) == (0, "")
    steps = [line for line in done.lines if line.startswith(("Creating service", "Waiting"))]
    assert steps == [
        "Creating service shop_db",
        "Waiting until shop_db has started, for shop_migrate",
        "Creating service shop_migrate",
        "Waiting until shop_db is healthy, shop_migrate is complete, for shop_web",
        "Creating service shop_web",
    ]
    assert not [line for line in deploy(flota, file).lines if line.startswith("Waiting")]


def test_what_depends_on_a_failing_service_is_not_deployed(working: Daemon, flota: Flota, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        QUICK
        + """
services:
  web: {<<: *quick, image: web, depends_on: {db: {condition: service_completed_successfully}}}
  db: {<<: *quick, image: crash, deploy: {restart_policy: {condition: on-failure, delay: 0s}}}
""",
    )
    done = deploy(flota, file)
    assert done.status == 1
    assert "service shop_db does not converge" in done.err
    assert done.err.endswith("; shop_web is not deployed, as shop_web depends on it\n")
    assert names_of(working, "services") == {"shop_db"}
    assert deploy(flota, file, "--detach").lines == ["Service shop_db is unchanged", "Creating service shop_web"]


def test_ctrl_c_while_a_dependency_is_waited_for_says_what_is_missing(swarm: Daemon, tmp_path: Path) -> None:
    file = write(tmp_path, "services: {web: {image: web, depends_on: [db]}, db: {image: db}}")
    command = [sys.executable, "-m", "flota.cli", "-H", swarm.host, "stack", "deploy", "-c", str(file), "shop"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("shop_db: overall progress: 0 out of 1"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "Interrupted: shop_web is not deployed.\n")
    assert names_of(swarm, "services") == {"shop_db"}


def test_several_deploys_at_once_all_succeed(working: Daemon, shop: Path) -> None:
    command = [sys.executable, "-m", "flota.cli", "-H", working.host, "stack", "deploy", "-q", "-c", str(shop), "shop"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    done = [run.communicate(timeout=60) for run in runs]
    assert [(run.returncode, err) for run, (_, err) in zip(runs, done, strict=True)] == [(0, "")] * 3
    assert names_of(working, "services") == {"shop_web", "shop_db"}


def test_ls_services_and_ps(working: Daemon, flota: Flota, shop: Path) -> None:
    deploy(flota, shop, "-q")
    deploy(flota, shop, "-q", name="other")
    assert flota("stack", "ls").out == "NAME      SERVICES\nother     2\nshop      2\n"
    assert [json.loads(line) for line in flota("stack", "ls", "--format", "json").lines] == [
        {"Name": "other", "Services": "2"},
        {"Name": "shop", "Services": "2"},
    ]
    done = flota("stack", "services", "shop")
    assert done.lines[0].split() == ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]
    assert [line.split()[1:5] for line in done.lines[1:]] == [
        ["shop_db", "replicated", "1/1", "db"],
        ["shop_web", "replicated", "2/2", "web:1"],
    ]
    assert flota("stack", "services", "--filter", "name=shop_w", "--format", "{{.Name}}", "shop").lines == ["shop_web"]
    assert flota("stack", "services", "-q", "shop").lines == [
        working.cluster.service(name).id[:12] for name in ("shop_db", "shop_web")
    ]
    done = flota("stack", "ps", "--format", "{{.Name}} {{.DesiredState}}", "shop")
    assert sorted(done.lines) == ["shop_db.1 Running", "shop_web.1 Running", "shop_web.2 Running"]
    assert flota("stack", "ps", "--filter", "name=shop_db", "-q", "shop").out.count("\n") == 1


def test_stacks_that_are_not_there(working: Daemon, flota: Flota) -> None:
    done = flota("stack", "services", "nope")
    assert (done.status, done.out, done.err) == (0, "", "Nothing found in stack: nope\n")
    done = flota("stack", "ps", "nope")
    assert (done.status, done.err) == (1, "flota: nothing found in stack: nope\n")
    done = flota("stack", "rm", "nope")
    assert (done.status, done.err) == (0, "Nothing found in stack: nope\n")


def test_rm_removes_everything_and_waits_for_the_tasks(working: Daemon, flota: Flota, shop: Path) -> None:
    before = names_of(working, "networks")
    deploy(flota, shop, "-q")
    done = flota("stack", "rm", "shop")
    assert (done.status, done.err) == (0, "")
    assert done.lines == [
        "Removing service shop_db",
        "Removing service shop_web",
        "Removing secret shop_password",
        "Removing config shop_page",
        "Removing network shop_back",
        "Removing network shop_default",
    ]
    assert not list(working.cluster.store.tasks)
    assert not names_of(working, "services") | names_of(working, "secrets") | names_of(working, "configs")
    assert names_of(working, "networks") == before


def test_rm_does_not_wait_for_nodes_that_are_down_and_says_what_stays(
    swarm: Daemon, flota: Flota, tmp_path: Path
) -> None:
    file = write(tmp_path, "services: {web: {image: web}}")
    deploy(flota, file, "-d")
    swarm.run(swarm.cluster.add_node("w1", state=NodeState.NODE_STATE_DOWN))
    network = swarm.cluster.service("shop_web").spec.task.networks[0].target
    added = swarm.run(swarm.cluster.add_task("shop_web", 1, "w1"))
    stored = swarm.cluster.store.tasks.get(added.id)
    assert stored is not None
    task = Task.FromString(stored.SerializeToString())
    task.networks.add(network_id=network)
    swarm.run(swarm.cluster.put(task))
    done = flota("stack", "rm", "shop")
    assert done.status == 1
    assert done.err.startswith("flota: failed to remove network shop_default: network shop_default is in use by 1 task")


def test_rm_detached_waits_only_until_the_tasks_have_stopped(swarm: Daemon, flota: Flota, tmp_path: Path) -> None:
    file = write(tmp_path, "services: {web: {image: web}}")
    deploy(flota, file, "-d")
    swarm.run(swarm.cluster.add_task("shop_web", 1, "m1", TaskState.TASK_STATE_SHUTDOWN))
    done = flota("stack", "rm", "--detach", "shop")
    assert (done.status, done.err) == (0, "")
    assert len(list(swarm.cluster.store.tasks)) == 1


def test_config_prints_what_the_files_come_to(flota: Flota, tmp_path: Path) -> None:
    base = write(tmp_path, "services: {web: {image: 'web${V}', ports: ['8080:80']}}")
    over = write(tmp_path, "services: {web: {environment: [A=$$B]}}", "over.yml")
    done = flota("stack", "config", "-c", str(base), "-c", str(over))
    assert done.status == 0
    assert done.out == (
        "services:\n  web:\n    environment:\n      A: $$B\n    image: web\n    networks:\n      default: {}\n"
        '    ports:\n    - mode: ingress\n      protocol: tcp\n      published: "8080"\n      target: 80\n'
        "networks:\n  default: {}\n"
    )
    assert f"{base}:1: the variable V is not set" in done.err
    assert "web${V}" in flota("stack", "config", "--skip-interpolation", "-c", str(base)).out


def test_standard_input_and_the_usual_file(
    swarm: Daemon, flota: Flota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "flota.cli", "-H", swarm.host, "stack", "deploy", "-d", "-c", "-", "shop"]
    done = subprocess.run(command, input="services: {web: {image: web}}", text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "Creating network shop_default\nCreating service shop_web\n")
    monkeypatch.chdir(tmp_path)
    assert flota("stack", "deploy", "shop").err == (
        "flota: name a Compose file (-c FILE): there is no compose.yaml in this folder\n"
    )
    write(tmp_path, "name: own\nservices: {web: {image: web}}", "compose.yaml")
    assert flota("stack", "deploy", "-d").lines == ["Creating network own_default", "Creating service own_web"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a b", "services: {a: {image: b}}", "flota: invalid stack name 'a b': letters, digits,"),
        ("shop", "services: {a: {build: .}}", "flota: {file}:1: services.a.build: no images are built here"),
        ("shop", "services: {a: {imaeg: b}}", "flota: {file}:1: services.a.imaeg: the key is not known here; did you"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    swarm: Daemon, flota: Flota, tmp_path: Path, name: str, text: str, said: str
) -> None:
    file = write(tmp_path, text)
    done = deploy(flota, file, "-d", name=name)
    assert done.status != 0
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err.startswith(said.replace("{file}", str(file)))


def test_plan_shows_what_a_deploy_would_do_and_does_nothing(
    working: Daemon, flota: Flota, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = deploy(flota, shop, "--plan")
    assert done.status == 2
    assert done.lines[0] == "Stack shop: 6 to create"
    assert "+ service shop_web" in done.lines
    assert not names_of(working, "services")
    deploy(flota, shop, "-q")
    done = flota("stack", "diff", "-c", str(shop), "shop")
    assert (done.status, done.out, done.err) == (0, "No changes: stack shop is what the files say.\n", "")
    monkeypatch.setenv("VERSION", "2")
    monkeypatch.setenv("DB_PASSWORD", "other")
    shop.write_text(SHOP.replace("replicas: 2", "replicas: 5"))
    done = flota("stack", "diff", "-c", str(shop), "shop")
    assert (done.status, done.err) == (2, "")
    assert done.lines == [
        "Stack shop: 3 to change; 3 tasks of 2 services are replaced",
        "~ secret shop_password  (its content differs: shop_password.2 is made of it)",
        "~ service shop_db  (its 1 task is replaced)",
        "    ~ secrets[password].source: shop_password → shop_password.2",
        "~ service shop_web  (its 2 tasks are replaced)",
        "    ~ deploy.replicas: 2 → 5",
        "    ~ image: web:1 → web:2",
    ]
    done = deploy(flota, shop, "--plan", "--format", "json")
    assert done.status == 2
    steps = {step["name"]: step for step in json.loads(done.out)["steps"]}
    assert steps["shop_web"]["changes"][0] == {"key": "deploy.replicas", "old": "2", "new": "5"}
    assert (steps["shop_web"]["restarts"], steps["shop_db"]["action"]) == (True, "change")
    assert (steps["shop_web"]["tasks"], steps["shop_db"]["tasks"]) == (2, 1)
    assert flota("stack", "diff", "--format", "toml", "-c", str(shop), "shop").status == 125
    assert "changes: 3\n" in flota("stack", "diff", "--format", "yaml", "-c", str(shop), "shop").out
    assert deploy(flota, shop, "--format", "json").err == "flota: --format goes with --plan\n"


def test_plan_with_prune(working: Daemon, flota: Flota, shop: Path, tmp_path: Path) -> None:
    deploy(flota, shop, "-q")
    small = write(tmp_path, SHOP.replace("  db:\n", "  db2:\n"), "small.yml")
    lines = flota("stack", "diff", "-c", str(small), "--prune", "shop").lines
    assert {"+ service shop_db2", "- service shop_db  (its 1 task stops)"} <= set(lines)
    lines = flota("stack", "diff", "-c", str(small), "shop").lines
    assert "· service shop_db  (the files do not have it any longer; --prune removes it)" in lines


def test_what_is_exported_can_be_deployed_again_and_changes_nothing(
    working: Daemon, flota: Flota, shop: Path, tmp_path: Path
) -> None:
    deploy(flota, shop, "-q")
    flota("service", "scale", "--detach", "shop_web=3")
    done = flota("stack", "export", "shop")
    assert (done.status, done.err) == (0, "")
    exported = write(tmp_path, done.out, "exported.yml")
    assert "      replicas: 3\n" in done.out
    assert "geheim" not in done.out
    assert flota("stack", "diff", "-c", str(exported)).status == 0
    done = flota("stack", "deploy", "--prune", "-c", str(exported))
    assert (done.status, done.err) == (0, "")
    assert done.lines == ["Service shop_db is unchanged", "Service shop_web is unchanged", UNCHANGED]
    assert names_of(working, "secrets") == {"shop_password"}
    assert flota("stack", "export", "nope").err == "flota: nothing found in stack: nope\n"


def test_lint(flota: Flota, tmp_path: Path) -> None:
    good = write(tmp_path, "services: {web: {image: 'x:1'}}")
    assert flota("stack", "lint", "-c", str(good)) == Ran(0, "", "")
    bad = write(tmp_path, "services:\n  web: {image: x, privileged: true}", "bad.yml")
    done = flota("stack", "lint", "-c", str(bad))
    assert (done.status, done.err) == (1, "")
    assert done.lines == [
        f"{bad}: privileged (web) is ignored: tasks are never privileged; use cap_add: [ignored]",
        f"{bad}:2: services.web.image: x is another image tomorrow, and not the same on all nodes: name a version "
        "[moving-image]",
    ]
    assert flota("stack", "lint", "-c", str(bad), "--ignore", "moving-image", "--ignore", "ignored").status == 0
    assert json.loads(flota("stack", "lint", "-c", str(bad), "--format", "json").out)[1]["rule"] == "moving-image"
    wrong = write(tmp_path, "services:\n  web: {imaeg: x}\n  db: {image: [x]}\nfoo: 1", "wrong.yml")
    assert [line.split(" ")[0] for line in flota("stack", "lint", "-c", str(wrong)).lines] == [
        f"{wrong}:2:", f"{wrong}:3:", f"{wrong}:4:",
    ]  # fmt: skip
    assert flota("stack", "lint", "-c", str(good), "--ignore", "nope").status == 125
