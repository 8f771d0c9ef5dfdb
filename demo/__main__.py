"""`make demo`: what flota does, shown on a swarm of five machines that are namespaces of this one.

Every line beginning with `$` is a command a person could have typed; what it prints follows. `--keep` leaves the swarm
running.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "stacks/examples/microservices"
FLOTA = Path(sys.executable).with_name("flota")
LAB = "demo"
BOLD, DIM, RESET = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class StepFailed(Exception):
    """A command of the demo did not do what it should."""


def title(text: str) -> None:
    print(f"\n{BOLD}{text}{RESET}", flush=True)


def run(*argv: str, quiet: bool = False, env: dict[str, str] | None = None) -> str:
    """Show a command, run it, show and give back what it printed."""
    shown = shlex.join(["flota" if part == str(FLOTA) else part for part in argv]).replace(f"{ROOT}/", "")
    if not quiet:
        print(f"{DIM}${RESET} {shown}", flush=True)
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | (env or {})
    )
    if not quiet:
        print("".join(f"  {line}\n" for line in done.stdout.splitlines()), end="", flush=True)
    if done.returncode:
        raise StepFailed(f"{shown}: exit status {done.returncode}" + (f"\n{done.stdout}" if quiet else ""))
    return done.stdout


def flota(*argv: str, quiet: bool = False) -> str:
    return run(str(FLOTA), *argv, quiet=quiet)


def on(node: str, *argv: str, quiet: bool = False) -> str:
    """Run `flota …` on a node of the lab."""
    return flota("lab", "exec", "--name", LAB, node, "--", "flota", *argv, quiet=quiet)


@contextmanager
def image(*versions: str) -> Iterator[list[str]]:
    """The example's image in several versions, as files for `lab up --load`."""
    with tempfile.TemporaryDirectory(prefix="flota-demo-") as folder:
        files = []
        for version in versions:
            file = f"{folder}/microservices-{version}.tar"
            run(str(EXAMPLE / "build"), file, version, quiet=True)
            files.append(file)
        yield files


def wait_until_replicas(node: str, service: str, wanted: str, limit: float = 30) -> float:
    """Seconds until `service ls` shows `wanted` (like 6/6) for a service."""
    start = time.monotonic()
    while time.monotonic() - start < limit:
        shown = on(node, "service", "ls", "--filter", f"name={service}", "--format", "{{.Replicas}}", quiet=True)
        if shown.split()[:1] == [wanted]:
            return time.monotonic() - start
        time.sleep(0.1)
    raise StepFailed(f"{service} did not reach {wanted} within {limit:.0f} s: {shown.strip()}")


def tour() -> None:
    title("A swarm of three managers and two workers, each a namespace with a daemon of its own")
    print(f"{DIM}· building the example's image from Debian packages (cached for the next time){RESET}", flush=True)
    with image("1.0", "1.1") as files:
        load = [argument for file in files for argument in ("--load", file)]
        flota("lab", "up", "--name", LAB, "--managers", "3", "--workers", "2", *load)
    on("m1", "node", "ls")

    title("An application of six services")
    on("m1", "stack", "deploy", "-c", str(EXAMPLE / "compose.yml"), "shop")
    on("m2", "stack", "services", "shop")

    title("A visitor, somewhere in the swarm, finds the services by their names")
    url = "http://optimizer:8080/optimize?low=5&high=30"
    question = f"until wget -qO- '{url}' 2>/dev/null; do sleep 0.2; done; sleep 1000"
    visitor = ["--name", "visitor", "--network", "shop_default", "busybox", "sh", "-c", question]
    on("m1", "service", "create", "--quiet", *visitor)
    on("m1", "service", "logs", "--raw", "visitor")

    title("Scale it, update it in a rolling way")
    on("m1", "service", "scale", "shop_calculator=6")
    on("m1", "service", "update", "--image", "microservices:1.1", "shop_calculator")
    on("m1", "service", "ps", "--filter", "desired-state=running", "shop_calculator")

    title("A worker loses power; its tasks come back elsewhere")
    flota("lab", "kill", "--name", LAB, "w1")
    wait_until_down("w1")
    seconds = wait_until_replicas("m1", "shop_calculator", "6/6")
    print(f"{DIM}· all six calculators run again {seconds:.1f} s after the swarm saw the node go down{RESET}")
    on("m1", "node", "ls")
    on("m1", "service", "ps", "--filter", "desired-state=running", "shop_calculator")


def wait_until_down(hostname: str, limit: float = 30) -> None:
    start = time.monotonic()
    while time.monotonic() - start < limit:
        shown = on("m1", "node", "ls", "--format", "{{.Hostname}} {{.Status}}", quiet=True)
        if f"{hostname} Down" in shown.splitlines():
            return
        time.sleep(0.1)
    raise StepFailed(f"{hostname} was not seen as down within {limit:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the swarm running")
    keep = parser.parse_args().keep
    start = time.monotonic()
    failed = True
    try:
        flota("lab", "down", "--name", LAB, quiet=True)  # what an earlier demo left
        tour()
        failed = False
    except StepFailed as failure:
        print(f"\ndemo: {failure}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
    finally:
        if not keep:
            title("Taking it down")
            flota("lab", "down", "--name", LAB)
    if failed:
        return 1
    title(f"Done in {time.monotonic() - start:.0f} s")
    if keep:
        print(f"""Look around:     eval "$(.venv/bin/flota lab env --name {LAB} m1)"; .venv/bin/flota service ls
Take it down:    .venv/bin/flota lab down --name {LAB}""")
    else:
        print("Keep it running: make demo KEEP=1")
    print("Where next:      README.md (a tour), docs/walk.md (one command through the code), stacks/examples/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
