"""What vm-test and machine-test share: a Debian machine's files, flota's wheels, running and waiting, the transcript.

Everything that can be made once is kept in `.cache/vm`.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache/vm"
# What the machine has before provision.sh; the Debian packages it wants are there too, so that it needs no network.
BASE = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "procps", "kmod", "python3", "python3-venv", "runc")


class Wrong(Exception):
    """Something is not as it should be."""


class Transcript:
    """What a person would have typed and seen, on standard output and in a file."""

    def __init__(self, path: Path | None) -> None:
        self.file = path.open("w") if path else None

    def say(self, text: str = "") -> None:
        """One line or more."""
        print(text, flush=True)
        if self.file:
            self.file.write(f"{text}\n")
            self.file.flush()


def run(*argv: str, env: dict[str, str] | None = None) -> str:
    """What a command prints. Raises Wrong with all of it if it fails."""
    whole = os.environ | (env or {})
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=whole)
    if done.returncode:
        raise Wrong(f"{shlex.join(argv)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def wait(what: str, check: Callable[[], bool], limit: float) -> float:
    """Until `check` says so, for at most `limit` seconds; how many it took. Raises Wrong."""
    start = time.monotonic()
    why = ""
    while time.monotonic() - start < limit:
        try:
            if check():
                return time.monotonic() - start
        except (Wrong, OSError) as error:
            why = f"\n{error}"
        time.sleep(0.2)
    raise Wrong(f"{what}: not within {limit:.0f} s{why}")


def packages(file: str) -> list[str]:
    """The names in one of the lists in setup/."""
    lines = (ROOT / "setup" / file).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def need(programs: dict[str, str]) -> None:
    """Install what is missing of these (Debian package → a file of it)."""
    missing = [package for package, file in programs.items() if not Path(file).exists()]
    if missing:
        print(f"· installing Debian packages: {' '.join(missing)}", flush=True)
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-qy", "--no-install-recommends", *missing, env={"DEBIAN_FRONTEND": "noninteractive"})


def debian_tree(name: str, more: Iterable[str] = ()) -> Path:
    """A Debian machine's files with what flota needs and `more` packages, made once."""
    wanted = sorted({*BASE, *packages("debian-packages.txt"), *more})
    files, stamp = CACHE / name, CACHE / f"{name}.packages"
    if not files.exists() or not stamp.exists() or stamp.read_text().split() != wanted:
        shutil.rmtree(files, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(wanted)}", "bookworm", str(files))
        stamp.write_text(" ".join(wanted))
    return files


def wheels() -> Path:
    """flota and all it needs as wheels, in the versions of uv.lock."""
    uv, folder = ROOT / ".cache/uv/bin/uv", CACHE / "wheels"
    wanted = run(str(uv), "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes")
    kept = folder / "requirements.txt"
    if not kept.exists() or kept.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "wanted").write_text(wanted)
        run("/usr/bin/python3", "-m", "venv", str(CACHE / "pip"))
        run(str(CACHE / "pip/bin/pip"), "wheel", "--quiet", "--disable-pip-version-check", "--wheel-dir", str(folder),
            "--requirement", str(folder / "wanted"))  # fmt: skip
        (folder / "wanted").rename(kept)
    for old in folder.glob("flota-*.whl"):
        old.unlink()
    run(str(uv), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT))
    return folder
