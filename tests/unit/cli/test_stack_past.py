"""Stacks over time: contents that rotate, revisions and the way back to them, two deploys at once."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flota.cli.stack import turns
from flota.cli.stack.history import KEPT
from flota.v1.control_pb2 import CreateConfigRequest, RemoveConfigRequest
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon
from tests.unit.cli.test_stack import SHOP, UNCHANGED, deploy, names_of, write

WEB = "services: {web: {image: 'web:${VERSION}', deploy: {replicas: 0}}}"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DB_PASSWORD", "geheim")
    return write(tmp_path, SHOP)


def secret_of(daemon: Daemon) -> tuple[str, bytes]:
    """The secret that shop_db has now."""
    (reference,) = daemon.cluster.service("shop_db").spec.task.container.secrets
    stored = daemon.cluster.store.secrets.get(reference.secret_id)
    assert stored is not None
    assert reference.file.name == "password", "where it appears does not change"
    return reference.secret_name, stored.spec.data


def test_contents_rotate_without_renaming(
    swarm: Daemon, flota: Flota, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(flota, shop, "-d")
    assert secret_of(swarm) == ("shop_password", b"geheim")

    monkeypatch.setenv("DB_PASSWORD", "other")
    shop.write_text(SHOP.replace("hello", "bye"))
    done = deploy(flota, shop, "-d")
    assert (done.status, done.err) == (0, "")
    assert done.lines[:2] == [
        "Creating secret shop_password.2: shop_password has another content now",
        "Creating config shop_page.2: shop_page has another content now",
    ]
    assert done.lines[-1] == (
        "Kept for `flota stack rollback`: secret shop_password (`flota secret rm` removes it for good)"
    )
    assert secret_of(swarm) == ("shop_password.2", b"other")
    assert deploy(flota, shop, "-d").lines[-1] == UNCHANGED
    assert flota("stack", "diff", "-c", str(shop), "shop").status == 0

    monkeypatch.setenv("DB_PASSWORD", "geheim")
    assert deploy(flota, shop, "-d").status == 0
    assert secret_of(swarm) == ("shop_password", b"geheim"), "an old content is its old version again"
    assert names_of(swarm, "secrets") == {"shop_password", "shop_password.2"}

    text = flota("stack", "export", "shop").out
    assert "configs:\n  page:\n    content: bye\n" in text
    exported = write(shop.parent, text, "exported.yml")
    assert deploy(flota, exported, "-d").lines[-1] == UNCHANGED
    assert flota("config", "ls", "--format", "{{.Name}}").lines == ["shop_page", "shop_page.2"]
    assert len(flota("config", "ls", "-q", "--filter", "label=flota.stack.record=revision").lines) == 3
    assert flota("stack", "rm", "-d", "shop").status == 0
    assert not names_of(swarm, "secrets") | names_of(swarm, "configs")


def test_labels_of_secrets_and_configs_change_and_nothing_else_does(swarm: Daemon, flota: Flota, shop: Path) -> None:
    deploy(flota, shop, "-d")
    store = swarm.cluster.store
    services = {service.id: service.meta.version.index for service in store.services}
    shop.write_text(
        SHOP.replace("{environment: DB_PASSWORD}", "{environment: DB_PASSWORD, labels: {team: shop}}").replace(
            "{content: hello}", "{content: hello, labels: [owner=alice]}"
        )
    )
    plan = flota("stack", "diff", "-c", str(shop), "shop")
    assert (plan.status, plan.lines) == (
        2,
        [
            "Stack shop: 2 to change",
            "~ secret shop_password",
            "    + labels.team: shop",
            "~ config shop_page",
            "    + labels.owner: alice",
        ],
    )
    done = deploy(flota, shop, "-d")
    assert (done.status, done.err) == (0, "")
    assert done.lines[:2] == ["Updating secret shop_password: its labels", "Updating config shop_page: its labels"]
    secret, config = store.secrets.by_name("shop_password"), store.configs.by_name("shop_page")
    assert secret is not None
    assert config is not None
    assert secret.spec.annotations.labels["team"] == "shop"
    assert "flota.stack.fingerprint" in secret.spec.annotations.labels, "what tells its content apart stays"
    assert (secret.spec.data, config.spec.annotations.labels["owner"]) == (b"geheim", "alice")
    assert {service.id: service.meta.version.index for service in store.services} == services
    assert deploy(flota, shop, "-d").lines[-1] == UNCHANGED
    shop.write_text(SHOP)
    assert deploy(flota, shop, "-d").status == 0
    secret = store.secrets.by_name("shop_password")
    assert secret is not None
    assert "team" not in secret.spec.annotations.labels
    assert names_of(swarm, "secrets") == {"shop_password"}


def test_history_says_what_was_deployed_and_rollback_brings_it_back(
    working: Daemon, flota: Flota, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(flota, shop, "-q")
    monkeypatch.setenv("DB_PASSWORD", "other")
    monkeypatch.setenv("VERSION", "2")
    shop.write_text(SHOP.replace("networks:\n  back", "  late: {<<: *quick, image: late}\nnetworks:\n  back"))
    deploy(flota, shop, "-q")
    assert deploy(flota, shop, "-q").status == 0, "nothing changed: no revision"
    rows = flota("stack", "history", "--format", "{{.Revision}}|{{.Changes}}|{{.Outcome}}", "shop").lines
    assert rows == [
        "2|2 services changed, 1 service created, 1 secret rotated|converged",
        "1|2 services created, 2 networks created, 1 secret created, 1 config created|converged",
    ]
    assert flota("stack", "history", "shop").lines[0].split() == [
        "REVISION", "DEPLOYED", "BY", "SOURCE", "CHANGES", "OUTCOME",
    ]  # fmt: skip
    assert flota("stack", "history", "-q", "shop").lines == ["2", "1"]

    plan = flota("stack", "rollback", "--plan", "shop")
    assert plan.status == 2
    assert "- service shop_late  (its 1 task stops)" in plan.lines
    assert "    ~ image: web:2 → web:1" in plan.lines

    done = flota("stack", "rollback", "-q", "shop")
    assert (done.status, done.err) == (0, "")
    assert working.cluster.service("shop_web").spec.task.container.image == "web:1"
    assert secret_of(working) == ("shop_password", b"geheim")
    assert names_of(working, "services") == {"shop_web", "shop_db"}
    (newest, *_) = flota("stack", "history", "--format", "{{.Revision}} {{.Source}}", "shop").lines
    assert newest == "3 rollback to 1"
    assert flota("stack", "rollback", "-q", "--to", "2", "shop").status == 0
    assert names_of(working, "services") == {"shop_web", "shop_db", "shop_late"}
    assert secret_of(working) == ("shop_password.2", b"other")


def test_revisions_that_are_not_there(swarm: Daemon, flota: Flota, shop: Path) -> None:
    assert flota("stack", "history", "shop").err == "flota: nothing found in stack: shop\n"
    assert flota("stack", "rollback", "shop").err.startswith("flota: stack shop has no history")
    deploy(flota, shop, "-d")
    assert flota("stack", "rollback", "shop").err == "flota: stack shop has no revision before 1\n"
    assert flota("stack", "rollback", "--to", "7", "shop").err == (
        "flota: stack shop has no revision 7; kept are: 1 (flota stack history shop)\n"
    )
    assert flota("stack", "rollback", "--to", "0", "shop").status == 125
    flota("service", "rm", "shop_db")
    flota("secret", "rm", "shop_password")
    done = flota("stack", "rollback", "--to", "1", "-d", "shop")
    assert done.status == 1
    assert done.err == (
        "flota: secret 'shop_password' is needed, but there is none: make it first "
        "(flota secret create shop_password FILE)\n"
    )


def test_only_the_newest_revisions_and_what_they_need_are_kept(swarm: Daemon, flota: Flota, tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    for number in range(1, KEPT + 4):
        file.write_text(f"services: {{web: {{image: x, configs: [c]}}}}\nconfigs: {{c: {{content: v{number}}}}}")
        assert deploy(flota, file, "-d").status == 0
    kept = flota("stack", "history", "-q", "shop").lines
    assert kept == [str(number) for number in range(KEPT + 3, 3, -1)]
    assert flota("config", "ls", "--format", "{{.Name}}").lines == [
        f"shop_c.{number}" for number in sorted(map(int, kept))
    ]


def test_two_deploys_at_once_are_one_after_the_other(
    swarm: Daemon, flota: Flota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "services:\n" + "".join(f"  s{n}: {{image: 'x:${{VERSION}}'}}\n" for n in range(12)))
    command = [sys.executable, "-m", "flota.cli", "-H", swarm.host, "stack", "deploy", "-d", "-c", str(file), "shop"]
    both = [
        subprocess.Popen(command, env={"PATH": "/usr/bin", "VERSION": version}, stderr=subprocess.PIPE, text=True)
        for version in ("1", "2")
    ]
    assert [process.communicate(timeout=100)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    images = {swarm.cluster.service(f"shop_s{n}").spec.task.container.image for n in range(12)}
    assert len(images) == 1, "never some of one and some of the other"
    assert names_of(swarm, "configs") == {"shop.revision.1", "shop.revision.2"}, "the turn is given back"


def begin_turn(daemon: Daemon) -> None:
    """As if somebody were deploying, who will not be heard of again."""
    request = CreateConfigRequest()
    request.spec.annotations.name, request.spec.data = "shop.deploying", b"turn"
    request.spec.annotations.labels["flota.stack.holder"] = "alice@far"
    request.spec.annotations.labels["flota.stack.record"] = "turn"
    daemon.run(daemon.cluster.control.CreateConfig(request, None))


def test_who_was_killed_holds_nobody_up_for_ever(
    swarm: Daemon, flota: Flota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERSION", "1")
    monkeypatch.setattr(turns, "DEAD_SECONDS", 0.5)
    begin_turn(swarm)
    done = deploy(flota, write(tmp_path, WEB), "-d")
    assert done.status == 0
    assert done.lines == [
        "Waiting: alice@far is deploying stack shop",
        "Nothing was heard of that deploy for 0.5 seconds: going on without it",
        "Creating network shop_default",
        "Creating service shop_web",
    ]
    assert names_of(swarm, "configs") == {"shop.revision.1"}


def test_who_lost_its_turn_changes_nothing_more(working: Daemon, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
services:
  a: {image: x, deploy: {placement: {constraints: [node.id==nope]}}}
  b: {image: x, depends_on: [a]}
""",
    )
    command = ["-H", working.host, "stack", "deploy", "-c", str(file), "shop"]
    code = (
        "import sys; from flota.cli.stack import turns; from flota.cli.main import main;"
        f"turns.BEAT_SECONDS = 0.05; sys.exit(main({command!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not names_of(working, "services"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        request = RemoveConfigRequest(config_id="shop.deploying")
        working.run(working.cluster.control.RemoveConfig(request, None))
        begin_turn(working)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert err.splitlines()[-2:] == [
        "Given up: shop_b is not deployed.",
        "flota: alice@far took over stack shop with another deploy, as this one was not heard of for 20 seconds: "
        "this one changes nothing more (flota stack diff shows what it has left undone)",
    ]
    assert names_of(working, "services") == {"shop_a"}
    assert "shop.deploying" in names_of(working, "configs"), "the other one's turn stays"
