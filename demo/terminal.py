"""A terminal session, typed by tmux and photographed: `python -m demo.terminal > docs/terminal.md`. Needs root, tmux.

A lab of three machines is booted, a shell on its first manager gets keys as a person would press them (Tab, too), and
what the terminal shows is written down with a line about each step. Nothing is left behind.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FLOTA = Path(sys.executable).with_name("flota")
LAB = f"terminal{os.getpid() % 10000}"
PROMPT = "m1# "
_COLUMNS, _ROWS = 118, 200
_PATIENCE_SECONDS = 120.0

COMPOSE = """\
services:
  web:
    image: busybox:latest
    command: sh -c 'mkdir -p /www; cp /page /www/index.html; exec httpd -f -p 80 -h /www'
    configs: [{source: page, target: /page}]
    ports: ["8080:80"]
    stop_grace_period: 1s
    deploy: {replicas: "${REPLICAS:-2}", update_config: {monitor: 0s, parallelism: 0}}
configs:
  page: {content: "hello from ${WHO:-version one}\\n"}
"""

# What it is about, and the keys. A step that ends in a Tab is completed, then Enter is pressed.
STEPS = (
    ("Three machines are a swarm.", "flota node ls"),
    (
        "A service. On a terminal a line per task shows how far each one is, redrawn in place.",
        "flota service create --name whoami --replicas 3 busybox sleep 1000000",
    ),
    ("Names complete: this was typed as `flota service ps who` and Tab.", "flota service ps who\t"),
    (
        "Without a terminal there are no bars, no colours, and a template says which fields.",
        "flota service ls --format '{{.Name}}: {{.Replicas}}' | cat",
    ),
    ("What is wrong is said in one line, with what was probably meant.", "flota service lss"),
    ("", "flota service update --limit-memory 64q whoami"),
    ("An application from a file. First: is there anything odd about it?", "flota stack lint -c compose.yml"),
    ("", "flota stack deploy -c compose.yml shop"),
    ("", "wget -qO- http://localhost:8080"),
    ("The same again changes nothing.", "flota stack deploy -c compose.yml shop"),
    (
        "Another content, other replicas: what would that do? (The exit status is 2: there are changes.)",
        "WHO='version two' REPLICAS=4 flota stack diff -c compose.yml shop; echo status $?",
    ),
    ("", "WHO='version two' REPLICAS=4 flota stack deploy -q -c compose.yml shop; wget -qO- http://localhost:8080"),
    ("Every deploy is a revision, and there is a way back.", "flota stack history shop"),
    ("", "flota stack rollback -q shop && wget -qO- http://localhost:8080"),
    ("What has happened meanwhile.", "flota events --since 5m --until 0s --filter stack=shop --filter type=service"),
    ("", "flota stack rm shop"),
    ("Is this machine well?", "flota doctor"),
)


class Terminal:
    """One tmux server with one window, in which a shell runs."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")
        self._begin = ("lab", "exec", "--name", LAB, "m1", "--", "bash", "--norc", "--noprofile")

    def tmux(self, *argv: str) -> str:
        """Run a tmux command."""
        command = ["tmux", "-S", self._socket, *argv]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def __enter__(self) -> "Terminal":
        size = ("-x", str(_COLUMNS), "-y", str(_ROWS))
        self.tmux("-f", "/dev/null", "new-session", "-d", *size, str(FLOTA), *self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, check=False)

    def shown(self) -> list[str]:
        """What stands there, from the first line."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-").rstrip("\n").split("\n")

    def keys(self, text: str) -> None:
        """Press keys; no name of a key is read into them."""
        self.tmux("send-keys", "-l", text)

    def enter(self) -> None:
        """Press Enter."""
        self.tmux("send-keys", "Enter")

    def wait(self, what: str, fulfilled: Callable[[list[str]], bool]) -> None:
        """Wait until what is shown fulfils a condition. Raises TimeoutError with what stands there."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not fulfilled(lines := self.shown()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come; the terminal shows:\n" + "\n".join(lines[-40:]))
            time.sleep(0.1)

    def do(self, text: str) -> str:
        """Type a line, and give what the terminal shows of it once the prompt is there again."""
        before = len(self.shown())
        typed, tab, _ = text.partition("\t")
        self.keys(typed)
        if tab:
            self.keys("\t")
            self.wait("a completion", lambda lines: len(lines[-1].rstrip()) > len(PROMPT + typed))
        self.enter()
        self.wait(f"the end of {typed!r}", lambda lines: len(lines) > before and lines[-1].rstrip() == PROMPT.rstrip())
        return "\n".join(line.rstrip() for line in self.shown()[before - 1 : -1])


def session(terminal: Terminal) -> str:
    """Type all steps; gives the page."""
    terminal.wait("a shell", lambda lines: bool(lines[-1].strip()))
    terminal.keys(f"PS1='{PROMPT}'; source <(flota completion bash); clear")
    terminal.enter()
    terminal.wait("a prompt", lambda lines: [line.rstrip() for line in lines] == [PROMPT.rstrip()])
    page = [
        "# A session at a terminal",
        "",
        "Typed into a real terminal by tmux, on the first manager of a lab of three machines, and written down as it",
        "stood there at each command's end (`python -m demo.terminal` makes this page anew).",
    ]
    block: list[str] = []
    for about, keys in STEPS:
        if about:
            page += [*_fenced(block), "", about, ""]
            block = []
        block.append(terminal.do(keys))
    return "\n".join([*page, *_fenced(block)]) + "\n"


def _fenced(block: list[str]) -> list[str]:
    return ["```", *block, "```"] if block else []


def main() -> int:
    lab = [str(FLOTA), "lab"]
    with tempfile.TemporaryDirectory(prefix="flota-terminal-") as folder:
        Path(folder, "compose.yml").write_text(COMPOSE)
        up = [*lab, "up", "--name", LAB, "--managers", "1", "--workers", "2"]
        try:
            subprocess.run(up, stdout=sys.stderr, check=True)
            os.chdir(folder)
            with Terminal(Path(folder)) as terminal:
                terminal.keys(f"cd {folder}")
                terminal.enter()
                print(session(terminal), end="")
        finally:
            subprocess.run([*lab, "down", "--name", LAB], stdout=sys.stderr, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
