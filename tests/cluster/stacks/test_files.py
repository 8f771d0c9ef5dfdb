"""Files as people have them, to running tasks: their images cannot be had here, so busybox stands in for each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flota.node.lab import Lab
from flota.node.lab.errors import LabError
from flota.node.lab.lab import LabNode
from flota.stacks.compose.writing import any_to_yaml
from flota.stacks.translation.stack import translate
from tests.cluster.swarm import Swarm
from tests.unit.stacks.projects import CASES, FILES, Case

JOBS = ("replicated-job", "global-job")
# What names machines, images or programs that are not here.
_ELSEWHERE = (
    *("entrypoint", "healthcheck", "user", "group_add", "volumes", "dns", "platform", "logging", "devices"),
    *("memswap_limit", "mem_swappiness", "ulimits", "oom_score_adj", "sysctls"),
)


def stand_in(service: Any) -> Any:
    """What goes over a service, so that it runs anywhere."""
    deploy = service.get("deploy", {})
    job = deploy.get("mode") in JOBS
    return {
        "image": "busybox:latest",
        "command": '!override ["true"]' if job else '!override [sleep, "1000000"]',
        "stop_grace_period": "0s",
        **{key: "!reset null" for key in _ELSEWHERE if key in service},
        "deploy": {key: "!reset null" for key in ("placement", "resources") if key in deploy}
        | ({} if job else {"update_config": "!override {monitor: 0s}"}),
    }


def override(case: Case) -> str:
    """A file that goes over a case's: the tags are not data, so they are written in by hand."""
    services = {name: stand_in(service) for name, service in case.load().tree["services"].items()}
    text = any_to_yaml({"services": services})
    for tag in ("!reset null", "!override"):
        text = text.replace(f'"{tag}', tag).replace(f"'{tag}", tag)
    return "".join(
        line.rstrip("'\"").replace('\\"', '"') + "\n" if "!override" in line or "!reset" in line else line + "\n"
        for line in text.splitlines()
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_file_gets_its_tasks(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    with Swarm(make_lab(1, 2)) as swarm:
        m1 = swarm.lab.nodes["m1"]
        failed = {}
        for case in CASES:
            if case.name == "extends":
                continue  # Two of its services publish one port.
            try:
                run(m1, case, tmp_path)
            except (LabError, AssertionError) as error:
                failed[case.name] = str(error)
                m1.flota("stack", "rm", stack_name(case), check=False, timeout=120)
        assert failed == {}
        assert [swarm.containers(node) for node in swarm.lab.nodes] == [0, 0, 0]


def stack_name(case: Case) -> str:
    return f"t-{case.name}"


def run(m1: LabNode, case: Case, folder: Path) -> None:
    """Deploy it, look, remove it."""
    name = stack_name(case)
    made = []
    for kind, thing in translate(case.load(), name).external:
        m1.flota(kind, "create", *([thing, "/etc/hostname"] if kind != "network" else [thing]))
        made.append((kind, thing))
    over, env = folder / f"{case.name}.yml", folder / f"{case.name}.env"
    over.write_text(override(case))
    env.write_text("".join(f"{key}={value}\n" for key, value in case.environment.items()))
    files = [part for file in case.files for part in ("-c", str(FILES / file))]
    flags = [*files, "-c", str(over), "--env-file", str(env), *(f"--profile={each}" for each in case.profiles)]
    m1.flota("stack", "deploy", "--timeout", "60s", *flags, name, timeout=300)
    form = "{{.Name}} {{.Mode}} {{.Replicas}}"
    for line in m1.flota("stack", "services", "--filter", "mode=replicated", "--format", form, name).splitlines():
        running, _, wanted = line.split()[2].partition("/")
        assert running == wanted, line
    m1.flota("stack", "rm", name, timeout=120)
    for kind, thing in made:
        m1.flota(kind, "rm", thing)
