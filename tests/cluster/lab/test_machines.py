"""What a node of a lab is, whatever runs on it: these labs run plain commands in place of daemons."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from flota.node.lab import Lab, LabError, LabNode, NoSuchLab
from tests.cluster.waiting import wait_until

SLEEP = ["/bin/sleep", "1000"]
FLOTA = Path(sys.executable).with_name("flota")


def reaches(node: LabNode, target: str) -> bool:
    return node.exec(["busybox", "ping", "-c", "1", "-W", "1", target], check=False).returncode == 0


def sh(node: LabNode, script: str) -> str:
    return node.exec(["sh", "-c", script]).stdout.strip()


@pytest.fixture
def plain(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(2, 1, swarm=False, command=SLEEP)


def test_a_node_is_a_machine_of_its_own(plain: Lab) -> None:
    m1, w1 = plain.nodes["m1"], plain.nodes["w1"]
    assert sh(m1, "hostname; cat /etc/hostname").split() == ["m1", "m1"]
    assert sh(m1, "ip -4 -o addr show eth0 | awk '{print $4}'") == f"{m1.address}/24"
    assert reaches(m1, "w1")
    assert reaches(w1, "m2")
    # No way out: neither a default route nor a name server.
    assert [line.split()[0] for line in sh(m1, "ip route").splitlines()] == [plain.plan.subnet if plain.plan else ""]
    assert "nameserver" not in sh(m1, "cat /etc/resolv.conf")
    # Its own /run, interfaces, processes; in the directory the caller is in.
    sh(m1, "echo here > /run/mine")
    assert (m1.run_directory / "mine").read_text() == "here\n"
    assert "mine" not in sh(w1, "ls -A /run")
    assert sorted(sh(m1, "ls /sys/class/net").split()) == ["eth0", "lo"]
    assert sh(m1, "cat /proc/2/cmdline | tr '\\0' ' '").split() == SLEEP
    assert sh(m1, "pwd") == os.getcwd()


def test_control_groups_are_seen_from_the_nodes_own(plain: Lab) -> None:
    own, others = plain.nodes["m1"], plain.nodes["m2"]
    sh(own, "for tree in $(awk '$9 ~ /^cgroup/ || $10 ~ /^cgroup/ {print $5}' /proc/self/mountinfo); do"
            " mkdir -p $tree/flota/x; done")  # fmt: skip
    found = {path for path in Path("/sys/fs/cgroup").rglob("flota/x") if plain.name in path.parts}
    assert found
    assert all(path.parts[-5:] == ("flota-lab", plain.name, "m1", "flota", "x") for path in found)
    assert "flota" not in sh(others, "ls /sys/fs/cgroup /sys/fs/cgroup/*").split()
    plain.kill("m1")
    assert not any(path.exists() for path in found)


def test_killing_a_node_kills_everything_on_it(plain: Lab) -> None:
    victim, witness = plain.nodes["m2"], plain.nodes["m1"]
    sh(victim, f"echo kept > {victim.disk}/kept; echo lost > /run/lost")
    # Two that have left their parents and sessions, as conmon and containers do.
    mark = f"1234{os.getpid()}"
    sh(victim, f"exec >/dev/null 2>&1; setsid sleep {mark} & setsid unshare --pid --fork sleep {mark} &")

    def strays() -> int:
        """How many run anywhere on this machine."""
        found = 0
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                found += mark.encode() in entry.read_bytes().split(b"\0")
        return found

    assert wait_until(lambda: strays() == 3, "two sleeps and one unshare")
    address = sh(victim, "cat /sys/class/net/eth0/address")
    plain.kill("m2")
    assert strays() == 0
    assert not victim.running
    assert witness.running
    assert not reaches(witness, "m2")
    with pytest.raises(LabError, match=r"node m2 .* is down"):
        victim.exec(["true"])

    plain.start("m2")
    assert victim.running
    assert wait_until(lambda: reaches(witness, "m2"), "an answer of m2 within a second")
    assert sh(victim, "cat /sys/class/net/eth0/address") == address
    assert (victim.disk / "kept").read_text() == "kept\n"
    assert "lost" not in sh(victim, "ls -A /run")
    with pytest.raises(LabError, match="is running"):
        plain.start("m2")


def test_a_daemon_that_ends_is_started_again(plain: Lab) -> None:
    m1 = plain.nodes["m1"]
    sh(m1, "kill -9 2")
    wait_until(lambda: "sleep 1000" in sh(m1, "ps -eo args"), "the daemon's stand-in again")


def test_partitions_add_up_and_heal(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(3, 1, swarm=False, command=SLEEP)
    nodes = lab.nodes
    lab.partition(["m1"], ["m2", "w1"])
    assert not reaches(nodes["m1"], "m2")
    assert not reaches(nodes["w1"], "m1")
    assert reaches(nodes["m1"], "m3")
    assert reaches(nodes["m2"], "w1")
    lab.partition(["m3"], ["m1"])
    assert not reaches(nodes["m1"], "m3")
    assert not reaches(nodes["m1"], "m2")
    # A partition is the network's: a node that boots again is still behind it.
    lab.kill("m2")
    lab.start("m2")
    assert not reaches(nodes["m2"], "m1")
    assert reaches(nodes["m2"], "m3")
    lab.heal()
    for other in ("m2", "m3", "w1"):
        # The kernel asks for an address that it did not get only once a second.
        wait_until(lambda target=other: reaches(nodes["m1"], target), f"{other} within reach")  # type: ignore[misc]
    with pytest.raises(LabError, match="both sides: m1"):
        lab.partition(["m1"], ["m1", "m2"])
    with pytest.raises(LabError, match="no node 'm9'"):
        lab.partition(["m1"], ["m9"])


def test_what_a_command_says_comes_back(plain: Lab) -> None:
    m1 = plain.nodes["m1"]
    assert m1.exec(["cat"], input="spoken").stdout == "spoken"
    done = m1.exec(["sh", "-c", "echo out; echo err >&2; exit 7"], check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    with pytest.raises(LabError, match=r"^m1: sh -c .*: exit status 7: no$"):
        m1.exec(["sh", "-c", "echo no; exit 7"])
    with pytest.raises(LabError, match=r"no end after 0\.2 s"):
        m1.exec(["sleep", "7654321"], timeout=0.2)
    wait_until(lambda: "7654321" not in sh(m1, "ps -eo args | grep -v grep"), "the command is gone")


def test_labs_do_not_touch_each_other(make_lab: Callable[..., Lab]) -> None:
    one, other = (make_lab(1, 0, swarm=False, command=SLEEP) for _ in range(2))
    assert {one.name, other.name} <= set(Lab.names())
    assert one.plan
    assert other.plan
    assert one.plan.subnet != other.plan.subnet
    assert not reaches(one.nodes["m1"], other.nodes["m1"].address)
    with pytest.raises(LabError, match=f"lab {one.name} is there already"):
        Lab.up(one.name, swarm=False, command=SLEEP)
    one.down()
    assert other.nodes["m1"].running
    assert reaches(other.nodes["m1"], "m1")
    with pytest.raises(NoSuchLab):
        Lab.find(one.name)
    one.down()  # Nothing to do is not an error.


def test_a_daemon_that_does_not_start_is_told(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, 0, swarm=False, command=["/nonexistent/daemon"])
    log = lab.nodes["m1"].disk / "log"
    wait_until(lambda: log.exists() and "cannot start /nonexistent/daemon" in log.read_text(), "word in the log")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "Bad_Name"}, "invalid lab name 'Bad_Name': 1 to 12 of"),
        ({"name": "much-too-long-a-name"}, "invalid lab name"),
        ({"managers": 0}, "invalid size of 0 managers"),
        ({"workers": 101}, "101 workers: 1 to 50 managers and up to 100 workers"),
        ({"load": [Path("/nonexistent.tar")]}, "invalid image '/nonexistent.tar'"),
    ],
)
def test_bad_requests_are_told_before_anything_is_made(arguments: dict[str, object], words: str) -> None:
    wanted = {"name": f"bad{os.getpid()}"} | arguments
    with pytest.raises(LabError, match=words):
        Lab.up(**wanted)  # type: ignore[arg-type]
    assert wanted["name"] not in Lab.names()


def test_the_command_line(plain: Lab) -> None:
    def flota(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([FLOTA, "lab", *argv], capture_output=True, text=True, check=False, timeout=60)

    named = ("--name", plain.name)
    listed = [line.split() for line in flota("ls").stdout.splitlines() if line.startswith(plain.name)]
    assert listed[0] == [plain.name, "m1", plain.nodes["m1"].address, "manager", "up"]
    assert flota("exec", *named, "w1", "--", "hostname").stdout == "w1\n"
    assert flota("exec", *named, "w1", "sh", "-c", "exit 5").returncode == 5
    exported = flota("env", *named, "m1").stdout.splitlines()
    assert exported[0] == f"export FLOTA_HOST=unix:///run/flota-lab/{plain.name}/m1/run/flota/flota.sock"
    assert exported[1].startswith("export DOCKER_HOST=unix:///run/flota-lab/")
    assert flota("partition", *named, "m1").stdout == "m1 | m2 w1\n"
    assert not reaches(plain.nodes["m1"], "w1")
    assert flota("heal", *named).returncode == 0
    assert flota("kill", *named, "w1").stdout == "w1\n"
    assert [line.split()[4] for line in flota("ls").stdout.splitlines() if line.startswith(plain.name)][-1] == "down"
    assert flota("start", *named, "w1").stdout == "w1\n"
    for argv, told in [
        (("kill", *named, "w9"), f"flota: there is no node 'w9' in lab {plain.name} (there is m1, m2, w1)"),
        (("up", "--managers", "x"), "flota lab up: invalid value for '--managers'"),
        (("up", *named), f"flota: lab {plain.name} is there already"),
        (("exec", "--name", "nix", "m1", "true"), "flota: there is no lab 'nix'"),
        (("frob",), "flota lab: no such command 'frob'"),
    ]:
        failed = flota(*argv)
        assert failed.returncode
        assert failed.stderr.startswith(told), failed.stderr
        assert failed.stderr.count("\n") == 1
    assert flota("down", *named).stdout == f"lab {plain.name} is gone\n"
    assert flota("down", *named).stdout == f"there is no lab {plain.name}: nothing to do\n"
