"""A transcript of what people type, played against a lab: the same lines, the same answers as Docker Swarm gives.

    python -m tests.cluster.gateway.course [FILE…]     records answers anew, from real dockerds on this machine

Ids, times, addresses and widths of columns are made equal on both sides before they are compared.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.docker_swarm import daemon_command
from flota.node.lab import Lab
from flota.node.lab.busybox import write_archive
from tests.cluster.images.registry import PASSWORD, USER, Registry
from tests.cluster.waiting import wait_until

HERE = Path(__file__).parent
COURSE = HERE / "course.txt"
PLAIN = HERE / "plain.txt"
ENGINE = HERE / "engine.txt"
ASKED = HERE / "asked.txt"
CONNECT = HERE / "connect.txt"
ROOT = HERE.parents[2]
DEBIAN = ROOT / ".cache/docker/docker"
_STEP = re.compile(r"(\w+)([$?~!]) (.+)")
_LIMIT = 60.0
_SETTLED = 3.0


@dataclass
class Step:
    """One line, and what was answered."""

    machine: str
    # $ once, ? until it is so, ~ refused, ! the machine loses power and boots again
    kind: str
    line: str
    expected: list[str] = field(default_factory=list)


def steps(transcript: Path) -> list[Step]:
    """What a transcript has."""
    found: list[Step] = []
    for line in transcript.read_text().splitlines():
        if match := _STEP.fullmatch(line):
            found.append(Step(match[1], match[2], match[3]))
        elif line and not line.startswith("#"):
            found[-1].expected.append(line)
    return found


class Machines:
    """The lab's nodes as `docker` reaches them."""

    def __init__(self, lab: Lab, program: Path, socket: str, scratch: Path) -> None:
        self._lab = lab
        self._socket = socket
        binaries = scratch / "bin"
        binaries.mkdir()
        (binaries / "docker").symlink_to(program)
        (scratch / "home").mkdir()
        self._environment = {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "HOME": str(scratch / "home"),
            "DOCKER_CLI_HINTS": "false",
            "LC_ALL": "C",
        }
        for name, node in lab.nodes.items():
            self._environment[name.upper()] = node.address
            self._environment[f"{name.upper()}_HOST"] = self.host(name)

    def host(self, name: str) -> str:
        """DOCKER_HOST of a node."""
        return f"unix://{self._lab.nodes[name].run_directory}/{self._socket}"

    @contextmanager
    def registry(self, machine: str, directory: Path) -> Iterator[None]:
        """A registry on the loopback of a machine, $REGISTRY in lines, for who is $REGISTRY_USER; until the end."""
        made = Registry(directory, auth=True)
        self._environment |= {"REGISTRY": made.address, "REGISTRY_USER": USER, "REGISTRY_PASSWORD": PASSWORD}
        with made.serving(self._lab.nodes[machine].pid):
            yield

    def boot_again(self, machine: str) -> None:
        """A machine loses power and comes back, until its daemon answers."""
        self._lab.kill(machine)
        self._lab.start(machine)
        self.wait_until_up(machine)

    def wait_until_up(self, machine: str) -> None:
        """Until its daemon answers."""
        ask = "docker version -f '{{.Server.Os}}'"
        wait_until(lambda: self.run(machine, ask) == ["linux"], f"the daemon of {machine}", _LIMIT, 0.3)

    def run(self, machine: str, line: str) -> list[str]:
        """What a line prints, both streams, made equal."""
        done = subprocess.run(
            ["bash", "-c", line],
            env=self._environment | {"DOCKER_HOST": self.host(machine)},
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * _LIMIT,
        )
        return self.normal(done.stdout)

    def normal(self, text: str) -> list[str]:
        """Without what differs each time."""
        for name, node in self._lab.nodes.items():
            text = text.replace(node.address, f"<{name}>")
        if address := self._environment.get("REGISTRY"):
            text = text.replace(address, "<registry>")
        for pattern, word in _NORMAL:
            text = re.sub(pattern, word, text)
        lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith(_CHATTER)]


_NORMAL = (
    (r"SWMTKN-1-\w+-\w+", "TOKEN"),
    (r"\b[0-9a-z]{25}\b", "ID"),
    (r"\b[0-9a-f]{64}\b", "ID"),
    # One id of fifty has no digit. These are words that transcripts have.
    (r"\b(?!availability\b|disconnected\b)[0-9a-z]{12}\b", "ID"),
    (r"@sha256:[0-9a-f]+", ""),
    (r"(Less than a second|About an? \w+|\d+ \w+) ago", "AGO"),
    # What only one of both says.
    (r"rpc error: code = \w+ desc = ", ""),
    (r"Error response from daemon: ", "Error: "),
    (r"(?m)^Error: No such", "Error: no such"),
    # What only older clients say.
    (r"(?m)^Status: (.*), Code: \d+$", r"\1"),
)
# Neither is there a registry to ask.
_CHATTER = (
    "image busybox:latest could not be accessed",
    "its digest. Each node will access",
    "possibly leading to different nodes",
    "versions of the image.",
    "Since --detach=false was not specified",
    "In a future release, --detach=false",
)


def play(machines: Machines, transcript: Path = COURSE) -> None:
    """Every step; fails at the first whose answer is not the expected one."""
    for number, step in enumerate(steps(transcript), 1):
        what = f"step {number}, {step.machine}: {step.line}"
        if step.kind == "!":
            machines.boot_again(step.machine)
        elif step.kind == "?":
            seen: list[str] = []

            def answered(step: Step = step, seen: list[str] = seen) -> bool:
                seen[:] = machines.run(step.machine, step.line)
                return seen == step.expected

            try:
                wait_until(answered, what, _LIMIT, 0.1)
            except AssertionError:
                raise AssertionError(f"{what}\nexpected {step.expected}\nanswered {seen}") from None
        else:
            answer = machines.run(step.machine, step.line)
            refused = step.kind == "~" and len(answer) == 1 and answer[0].startswith("Error: ")
            assert refused or answer == step.expected, f"{what}\nexpected {step.expected}\nanswered {answer}"


@contextmanager
def real_docker(scratch: Path, workers: int) -> Iterator[Machines]:
    """A dockerd on each of 1 + `workers` machines, with busybox, in no swarm."""
    name = f"d{os.getpid()}"
    command = ["/bin/sh", "-c", daemon_command(name)]
    with Lab.up(name, 1, workers, swarm=False, command=command) as lab:
        image = scratch / "busybox.tar"
        write_archive(image)
        machines = Machines(lab, DEBIAN, "docker.sock", scratch)
        for node in lab.nodes:
            machines.wait_until_up(node)
            machines.run(node, f"docker load -i {image}")
        yield machines


def _record(transcript: Path) -> None:
    """Write the answers of real dockerds into a transcript."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        real_docker(Path(scratch), 1) as machines,
        machines.registry("m1", Path(scratch) / "registry"),
    ):
        text = []
        for line in transcript.read_text().splitlines():
            match = _STEP.fullmatch(line)
            if match is None:
                if not line or line.startswith("#"):
                    text.append(line)
                continue
            text.append(line)
            if match[2] == "!":
                machines.boot_again(match[1])
                continue
            answer = machines.run(match[1], match[3])
            if match[2] == "?":
                since = time.monotonic()
                while time.monotonic() - since < _SETTLED:
                    time.sleep(0.3)
                    if (now := machines.run(match[1], match[3])) != answer:
                        answer, since = now, time.monotonic()
            print(line, *answer, sep="\n", file=sys.stderr)
            text += answer
        transcript.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    for file in sys.argv[1:] or [COURSE, PLAIN, ENGINE, ASKED, CONNECT]:
        _record(Path(file))
