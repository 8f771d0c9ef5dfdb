"""A manager that writes until its machine's power is cut; what it finds when the machine is on again.

The machine is cut off by whoever started it (vagrant/machine-test), who has read which writes were acknowledged.
"""

import asyncio
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.cluster.manager import test_failing_disk as failing
from tests.cluster.manager.processes import ManagerProcess
from tests.machine.telling import end, must, say

failing.PATIENCE = 600
PLACE = Path("/mnt/power")


def mount() -> None:
    device = next(name for name in ("/dev/vdb", "/dev/ubdb") if Path(name).exists())
    PLACE.mkdir(exist_ok=True)
    if subprocess.run(["mount", device, str(PLACE)], capture_output=True).returncode:
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", device], check=True)
        subprocess.run(["mount", device, str(PLACE)], check=True)


async def write(manager: ManagerProcess) -> None:
    must("a manager begins", await manager.init() == "ready")
    number = 0
    while True:
        say("acknowledged", await failing.write(manager, f"config{number}"))
        number += 1


async def read(manager: ManagerProcess) -> None:
    must("the manager starts again", await manager.start(manager.config()) == "ready")
    say("found", *sorted(await failing.names(manager)))
    await manager.end()


def main() -> int:
    mount()
    again = (PLACE / "m1").exists()
    manager = ManagerProcess(Path(mkdtemp()) if again else PLACE, "m1")
    manager.directory = PLACE / "m1"
    manager.raft_directory = manager.directory / "raft"
    asyncio.run(read(manager) if again else write(manager))
    return end()


if __name__ == "__main__":
    sys.exit(main())
