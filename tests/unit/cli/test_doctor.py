"""`flota doctor`: what it says of machines and swarms, good ones and bad ones."""

import asyncio
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from flota.cli import colours
from flota.cli.doctor import machine, swarm
from flota.cli.doctor.finding import Finding
from flota.cli.doctor.machine import Machine
from flota.manager.bootstrap import first_identity
from flota.v1.objects_pb2 import ManagerStatus, Node, Task
from flota.v1.types_pb2 import NodeRole, NodeState
from tests.unit.cli.conftest import Flota, on_terminal
from tests.unit.cli.daemon import Daemon

VERSIONS = {"crun": "crun version 1.8.1", "conmon": "conmon version 2.1.6", "nft": "nftables v1.0.6"}
TCP = "  sl  local_address rem_address   st\n   0: 00000000:0949 00000000:0000 0A 0\n"


def made_up(root: Path, broken: str = "", synchronised: bool = True, **files: str) -> Machine:
    """A machine on which everything is well, but for what is `broken` and what `files` say."""
    usual = {
        "proc/sys/kernel/osrelease": "6.1.0\n",
        "proc/filesystems": "nodev\toverlay\n",
        "proc/sys/kernel/seccomp/actions_avail": "kill\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory pids io\n",
        "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 500 kB\n",
    }
    for path, text in (usual | {name.replace("__", "/"): text for name, text in files.items()}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    def run(command: Sequence[str]) -> tuple[int, str]:
        line = " ".join(command)
        return (1, "no") if broken and broken in line else (0, VERSIONS.get(command[0], ""))

    return Machine(root, root, run=run, synchronised=lambda: synchronised)


def wrong(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    return [(each.verdict, each.area, each.what) for each in findings if each.verdict != "ok"]


def test_a_machine_on_which_all_is_well(tmp_path: Path) -> None:
    found = [each for each in machine.checks(made_up(tmp_path)) if each.area != "disk"]
    assert wrong(found) == []
    assert {each.area for each in found} == {"versions", "kernel", "cgroups", "memory", "clock", "ports"}
    assert "6.1.0: overlayfs, seccomp, namespaces, bridges, veth, VXLAN, nftables, WireGuard" in [e.what for e in found]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("crun --version", ("failure", "versions", "crun does not run")),
        ("vxlan", ("failure", "kernel", "no VXLAN can be made")),
        ("nft add", ("failure", "kernel", "no nftables can be made")),
        ("wireguard", ("warning", "kernel", "there is no WireGuard")),
    ],
)
def test_what_a_machine_lacks(tmp_path: Path, broken: str, expected: tuple[str, str, str]) -> None:
    found = machine.checks(made_up(tmp_path, broken))
    assert [each for each in wrong(found) if each[1] != "disk"] == [expected]
    assert all(each.advice for each in found if each.verdict != "ok")


def test_files_that_say_what_is_wrong(tmp_path: Path) -> None:
    bad = made_up(
        tmp_path,
        synchronised=False,
        proc__net__tcp=TCP,
        sys__fs__cgroup__cgroup_controllers="",
        proc__meminfo="MemTotal: 1000 kB\nMemAvailable: 10 kB\n",
    )
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu pids")
    found = [each for each in wrong(machine.checks(bad)) if each[1] != "disk"]
    assert found[0] == ("failure", "cgroups", "version 2, without memory")
    assert found[1][:2] == ("warning", "memory")
    assert found[2][1] == "clock"
    assert found[2][2].endswith("and nothing keeps it right")
    assert found[3] == ("warning", "ports", "2377/tcp taken by another program")
    bad.in_swarm = True
    assert list(machine.ports(bad)) == []


def test_control_groups_of_old_machines(tmp_path: Path) -> None:
    old = made_up(tmp_path)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").unlink()
    assert wrong(list(machine.control_groups(old))) == [("failure", "cgroups", "version 1, without cpu, memory, pids")]
    for name in ("cpu", "memory", "pids"):
        (tmp_path / "sys/fs/cgroup" / name).mkdir()
    assert wrong(list(machine.control_groups(old))) == [("warning", "cgroups", "version 1")]


def test_a_certificate_that_is_not_renewed(tmp_path: Path) -> None:
    identity, _ = first_identity()
    from flota.rpc.identity import Identity

    Identity.store(tmp_path, identity.certificate_pem, identity.key_pem, identity.root_pem)
    mine = Identity(tmp_path).certificate
    begun, end = mine.not_valid_before_utc, mine.not_valid_after_utc
    life = end - begun

    def verdict(now: datetime.datetime) -> str:
        (found,) = swarm.certificate(tmp_path, now)
        return found.verdict

    assert verdict(begun + life * 0.6) == "ok"
    assert verdict(begun + life * 0.95) == "warning"
    assert verdict(end + life) == verdict(begun - life) == "failure"
    assert list(swarm.certificate(tmp_path / "nowhere", end)) == []


def manager(
    name: str, reachable: bool = True, state: "NodeState.ValueType" = NodeState.NODE_STATE_READY, trouble: str = ""
) -> Node:
    made = Node(id=name, role=NodeRole.NODE_ROLE_MANAGER)
    made.description.hostname = name
    made.status.state = state
    made.manager_status.trouble = trouble
    made.manager_status.reachability = (
        ManagerStatus.REACHABILITY_REACHABLE if reachable else ManagerStatus.REACHABILITY_UNREACHABLE
    )
    return made


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([manager("a"), manager("b"), manager("c")], []),
        ([manager("a")], [("warning", "managers", "one: without it nothing can be changed")]),
        ([manager("a"), manager("b"), manager("c"), manager("d")],
         [("warning", "managers", "4 of 4 managers reachable; an even number is no safer than one less")]),
        ([manager("a"), manager("b"), manager("c", False, NodeState.NODE_STATE_DOWN)],
         [("warning", "nodes", "not ready: c"),
          ("failure", "managers", "2 of 3 managers reachable: none may be lost")]),
        ([manager("a"), manager("b"), manager("c", False, trouble="Input/output error")],
         [("failure", "managers", "c takes no part, its disk refuses: Input/output error"),
          ("failure", "managers", "2 of 3 managers reachable: none may be lost")]),
    ],
)  # fmt: skip
def test_managers_that_may_be_lost(nodes: list[Node], expected: list[tuple[str, str, str]]) -> None:
    assert wrong(list(swarm.nodes_found(nodes))) == expected


def test_a_clock_that_is_ahead_is_seen_in_the_statuses() -> None:
    def status(node: str, at: float, kept: float) -> Task:
        task = Task(node_id=node)
        task.status.timestamp.FromNanoseconds(int(at * 1e9))
        task.meta.updated_at.FromNanoseconds(int(kept * 1e9))
        return task

    tasks = [status("w1", 110, 100.1), status("w1", 111, 150), status("w2", 100, 100.2), status("w2", 100, 900)]
    assert [each.what for each in swarm.clocks(tasks, {"w1": "one"})] == ["node one is 10 s ahead of the leader"]


def test_managers_that_cannot_be_reached(unused_tcp_port: int) -> None:
    (found,) = asyncio.run(swarm.managers_reached([f"127.0.0.1:{unused_tcp_port}"]))
    assert (found.verdict, found.area) == ("failure", "managers")
    assert found.what.startswith(f"127.0.0.1:{unused_tcp_port} cannot be reached: ")


def test_the_command_asks_machine_daemon_and_swarm(
    swarm: Daemon, flota: Flota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "Machine", lambda: made_up(tmp_path / "root"))
    swarm.local.info.state_directory = str(tmp_path)
    swarm.local.info.managers.clear()
    done = flota("doctor")
    assert (done.status, done.err) == (0, "")
    assert "✓ versions  crun 1.8.1" in done.lines
    assert "! managers  one: without it nothing can be changed" in done.lines
    assert "            → flota node promote two more nodes" in done.lines
    assert done.lines[-1].endswith("warnings") or done.lines[-1].endswith("warning")
    assert "\x1b[" not in done.out
    rows = json.loads(flota("doctor", "--format", "json").out)
    assert {"area": "daemon", "verdict": "ok", "what": "version 0.1.0, crun", "advice": ""} in rows
    assert flota("doctor", "--format", "yamll").status != 0


def test_without_a_daemon(flota: Flota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "Machine", lambda: made_up(tmp_path / "root"))
    done = flota("doctor")
    assert done.status == 1
    assert "✗ daemon    Cannot connect to the flota daemon" in done.out


def test_colours_are_for_terminals(swarm: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    status, shown, _ = on_terminal(swarm, "doctor", NO_COLOR="", TERM="xterm")
    assert status in (0, 1)
    assert "\x1b[3" in shown
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for no_color, term, expected in (("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        monkeypatch.setenv("TERM", term)
        assert colours.wanted() is expected
