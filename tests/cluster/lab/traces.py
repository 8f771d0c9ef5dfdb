"""What a lab leaves on a machine, seen before, during and after; printed as JSON. Run by test_leftovers.py.

    unshare --net --mount --pid --fork --mount-proc python traces.py LAB flota|plain [CONDITION]

In namespaces of its own nothing else comes and goes, so the comparison can be exact. With a CONDITION, `up` is killed
as soon as that holds, and `down` runs after it. `plain` nodes run a command in place of flota's daemon.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

UP = """
import sys
from flota.node.lab import Lab
Lab.up(sys.argv[1], 3, 2, swarm=False, command=["/bin/sleep", "1000"])
"""
LAB = [sys.executable, "-m", "flota.node.lab"]


def traces(lab: str) -> list[str]:
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True).stdout
    found = [f"interface {link['ifname']}" for link in json.loads(shown)]
    found += [f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if int(entry.name) not in (os.getpid(), os.getppid()):
            found.append(f"process {words} {'dead' if state == 'Z' else ''}".strip())
    for directory in ("/run/flota-lab", "/var/lib/flota-lab"):
        if (path := Path(directory) / lab).exists():
            found += [str(path), *map(str, path.iterdir())]
    found += map(str, Path(tempfile.gettempdir()).glob(f"*{lab}*"))
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        if lab in Path(directory).parts:
            found.append(directory)
    return sorted(found)


def bury_orphans(lab: str) -> None:
    """What process 1 of a machine does, which this is in its namespace. Who has begun to die has no command line."""
    until = time.monotonic() + 10
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if "process" not in traces(lab) or time.monotonic() > until:
            return
        time.sleep(0.01)


def conditions(lab: str) -> dict[str, Callable[[], bool]]:
    run = Path("/run/flota-lab") / lab
    return {
        "claimed": (run / "lab.json").exists,
        "switch": lambda: any(f"init {lab} switch" in line for line in traces(lab)),
        "wired": lambda: f"interface fl-{lab}" in traces(lab),
        "node": lambda: any(f"init {lab} m2" in line for line in traces(lab)),
        "linked": (run / "m2").exists,
        "listening": (run / "m1/run/flota/flota.sock").exists,
    }


def main(lab: str, daemon: str, condition: str = "") -> None:
    command = [*LAB, "up", "--name", lab] if daemon == "flota" else [sys.executable, "-c", UP, lab]
    before = traces(lab)
    up = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if condition:
        holds = conditions(lab)[condition]
        while not holds() and up.poll() is None:
            time.sleep(0.001)
        up.kill()
    status = up.wait()
    if status == 0 and daemon == "flota":
        create = ["flota", "service", "create", "--quiet", "--replicas", "10", "busybox", "sleep", "100000"]
        subprocess.run([*LAB, "exec", "--name", lab, "m1", "--", *create], stdout=subprocess.DEVNULL, check=True)
    during = traces(lab)
    subprocess.run([*LAB, "down", "--name", lab], stdout=subprocess.DEVNULL)
    bury_orphans(lab)
    print(json.dumps({"status": status, "before": before, "during": during, "after": traces(lab)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
