"""`flota events` against the real control API."""

import asyncio
import json
import os
import subprocess
import sys

from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon

NOW = ("--since", "1h", "--until", "0s")


def test_the_past_is_told_and_filtered(swarm: Daemon, flota: Flota) -> None:
    flota("service", "create", "-d", "--name", "web", "--label", "com.docker.stack.namespace=shop", "nginx:1")
    flota("service", "scale", "-d", "web=3")
    flota("secret", "create", "key", "/etc/hostname")
    flota("service", "rm", "web")
    done = flota("events", *NOW, "--filter", "type=service", "--filter", "type=secret")
    assert (done.status, done.err) == (0, "")
    assert [line.split()[1:3] for line in done.lines] == [
        ["service", "create"], ["service", "update"], ["secret", "create"], ["service", "remove"],
    ]  # fmt: skip
    assert done.lines[1].endswith("(name=web, replicas.new=3, replicas.old=1, stack=shop)")
    form = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"
    assert flota("events", *NOW, "--filter", "stack=shop", "--filter", "event=remove", "--format", form).lines == [
        "service remove web"
    ]
    assert flota("events", *NOW, "--filter", "secret=key", "--format", form).lines == ["secret create key"]
    assert flota("events", *NOW, "--filter", "service=other").out == ""
    assert flota("events", *NOW, "--filter", "daemon=m1", "--filter", "scope=swarm", "--format", form).lines[0] == (
        "node create m1"
    )
    assert flota("events", *NOW, "--filter", "daemon=m1", "--filter", "scope=local").out == ""
    assert flota("events", *NOW, "--filter", "container=none").out == ""
    (line,) = flota("events", *NOW, "--filter", "secret=key", "--format", "json").lines
    event = json.loads(line)
    assert (event["Type"], event["Action"], event["Actor"]["Attributes"]) == ("secret", "create", {"name": "key"})
    assert event["timeNano"] // 10**9 == event["time"]


def test_what_is_asked_wrongly(swarm: Daemon, flota: Flota) -> None:
    for argv, said in (
        (["--since", "yesterday"], "flota: invalid --since 'yesterday': a duration such as 10m"),
        (["--filter", "type=pod"], "flota: invalid --filter 'type=pod': one of service, task, node"),
        (["--filter", "typ=node"], "flota: invalid --filter 'typ=node': 'typ' is not one of type, event"),
        (["--format", "{{.Nope"], "flota: invalid --format '{{.Nope': "),
        ([*NOW, "--format", "{{.Nope}}"], "flota: invalid --format '{{.Nope}}': can't evaluate field Nope"),
    ):
        done = flota("events", *argv)
        assert done.status == 125
        assert done.err.startswith(said)


def test_it_goes_on_as_things_happen(working: Daemon, flota: Flota) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flota.cli", "-H", working.host, "events", "--since", "1h", "--filter", "type=task"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        flota("service", "create", "-d", "--name", "web", "nginx:1")
        line = process.stdout.readline()
        assert " task running " in line
        assert "name=web.1, node=" in line
    finally:
        process.terminate()
        process.wait(30)


def test_another_leader_goes_on_where_the_last_one_was(swarm: Daemon, flota: Flota) -> None:
    argv = ["events", "--since", "1h", "--filter", "type=secret", "--format", "{{.Actor.Attributes.name}}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flota.cli", "-H", swarm.host, *argv],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for number in range(3):
            flota("secret", "create", f"key{number}", "/etc/hostname")
            assert process.stdout.readline() == f"key{number}\n", "each is told once"
            swarm.run(lose_leadership(swarm))
    finally:
        process.terminate()
        process.wait(30)


async def lose_leadership(daemon: Daemon) -> None:
    """What the control API does when another manager leads: streams end."""
    leading = asyncio.ensure_future(daemon.control.run())
    await asyncio.sleep(0)
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
