"""Running seeds, and what is said when one fails."""

import os
import shutil
import tempfile
from pathlib import Path

from flota.manager.raft.core import Raft
from tests.simulation.raft.bugs import BUGS
from tests.simulation.raft.world import World

# Syncs are real system calls, and their cost is not what is looked at here.
_MEMORY = Path("/dev/shm")


def size_of(seed: int) -> int:
    """Managers of a seed's cluster."""
    return (3, 5, 3, 7, 5)[seed % 5]


def core_class(bug: str = "") -> type[Raft]:
    """The core, with a seeded bug if one is named."""
    return BUGS[bug] if bug else Raft


def run_seed(seed: int, bug: str = "") -> World:
    """Live through one seed. Raises AssertionError that ends in the command to replay it."""
    where = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="flota-raft-", dir=where))
    world = World(seed, size_of(seed), directory, core_class(bug))
    try:
        world.run()
    except AssertionError as error:
        replay = f"python -m tests.simulation.raft {seed} {size_of(seed)} {bug}".strip()
        story = "\n".join(list(world.log)[-25:])
        raise AssertionError(f"seed {seed}: {error}\n{story}\nreplay: {replay}") from error
    finally:
        for machine in world.machines.values():
            if machine.up:
                machine.storage.close()
        shutil.rmtree(directory)
    return world
