"""Labs of tests: their names, which say whose they are, and heartbeats that a busy machine can keep."""

import itertools
import os

from flota.node.lab import Lab

# Labs of this process begin with it.
PREFIX = f"t{os.getpid()}-"
# Seconds. With the default of one, a machine that stands still for three loses its nodes, and their tasks move: what
# most tests are not about. Those that wait for a node to be missed have a shorter one.
HEARTBEAT = 5.0
_numbers = itertools.count(1)


def lab_name() -> str:
    """A name no other test has now."""
    return f"{PREFIX}{next(_numbers)}"


def lab_up(managers: int, workers: int, *, heartbeat: float = HEARTBEAT, **options: object) -> Lab:
    """Lab.up, with a name of this process."""
    return Lab.up(lab_name(), managers, workers, heartbeat=heartbeat, **options)  # type: ignore[arg-type]
