"""Replay one seed with its whole story: python -m tests.simulation.raft SEED [SIZE] [BUG]"""

import sys
import tempfile
from pathlib import Path

from tests.simulation.raft.bugs import BUGS
from tests.simulation.raft.seeds import core_class, size_of
from tests.simulation.raft.world import World


def main() -> int:
    seed = int(sys.argv[1])
    bug = sys.argv[3] if len(sys.argv) > 3 else ""
    size = int(sys.argv[2]) if len(sys.argv) > 2 else size_of(seed)
    assert not bug or bug in BUGS, f"bugs are {', '.join(BUGS)}"
    with tempfile.TemporaryDirectory() as directory:
        world = World(seed, size, Path(directory), core_class(bug))
        world.log.clear()
        trace = world.trace
        world.trace = lambda line: (trace(line), print(world.log[-1]))[0]  # type: ignore[method-assign]
        try:
            world.run()
        except AssertionError as error:
            print(f"{world.now:8.3f}  WRONG: {error}")
            return 1
    print(f"seed {seed} with {size} managers: nothing wrong, {len(world.history)} operations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
