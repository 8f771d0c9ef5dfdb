"""Files as people have them, deployed to the real control API: the second time nothing changes, exported neither."""

import os
from pathlib import Path

import pytest

from flota.stacks.translation.stack import translate
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon
from tests.unit.stacks.projects import CASES, FILES, Case

# Two of its services publish one port, which only the managers can know to be too many.
DEPLOYED = [case for case in CASES if case.name != "extends"]


@pytest.mark.parametrize("case", DEPLOYED, ids=[case.name for case in DEPLOYED])
def test_what_is_deployed_is_what_the_files_say(
    case: Case, swarm: Daemon, flota: Flota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in case.environment.items():
        monkeypatch.setenv(key, value)
    for kind, name in translate(case.load(), "shop").external:
        argv = [name, "/etc/hostname"] if kind != "network" else [name]
        assert flota(kind, "create", *argv).status == 0
    files = [part for file in case.files for part in ("-c", str(FILES / file))]
    profiles = [f"--profile={profile}" for profile in case.profiles]
    deploy = ["stack", "deploy", "-d", *files, *profiles, "shop"]
    done = flota(*deploy)
    assert done.status == 0, done.err
    assert flota(*deploy).lines[-1] == "Nothing changed: stack shop is what the files say"
    assert flota("stack", "diff", *files, *profiles, "shop").status == 0

    exported = tmp_path / "exported.yml"
    exported.write_text(flota("stack", "export", "shop").out)
    for key in case.environment:
        monkeypatch.delenv(key)
    assert os.environ.get("COMPOSE_PROFILES") is None
    done = flota("stack", "deploy", "-d", "-c", str(exported), "shop")
    assert (done.status, done.lines[-1]) == (0, "Nothing changed: stack shop is what the files say"), done.err
