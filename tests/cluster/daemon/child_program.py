"""A child as the daemon knows one, that does what its configuration's hostname says.

    python child_program.py DIRECTORY

It leaves a line in DIRECTORY/lines for each configuration it gets: its process id and the hostname. What it is told:
    well            ready, and lives on
    refuse          "failed there is no room", and ends
    crash           ends before it is ready
    once            as well, but a second process refuses
    deaf            ready, and takes no notice of the end of its input
    stubborn        neither of that nor of SIGTERM
    chatty          ready, and more words than a pipe holds
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(directory: Path) -> int:
    while line := sys.stdin.readline():
        word = json.loads(line).get("hostname", "")
        known = (directory / "lines").read_text() if (directory / "lines").exists() else ""
        with (directory / "lines").open("a") as lines:
            lines.write(f"{os.getpid()} {word}\n")
        if word == "crash":
            os._exit(7)
        if word == "refuse" or (word == "once" and "once" in known and f"{os.getpid()} once" not in known):
            print("failed there is no room", flush=True)
            return 1
        print("ready", flush=True)
        if word == "chatty":
            for number in range(5000):
                print(f"this is word number {number}, and there are many of them", flush=True)
            (directory / "said").touch()
        if word == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while word in ("deaf", "stubborn"):
            time.sleep(3600)
    (directory / "ended").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
