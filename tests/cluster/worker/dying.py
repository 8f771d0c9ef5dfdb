"""A worker that is killed at one place of its own code, as kill -9 would: `python -m tests.cluster.worker.dying`.

DIE_AT is `module:name:before` or `:after`, and `:N` if it is not the first call that counts.
"""

import functools
import importlib
import inspect
import os
import signal
import sys
from typing import Any

from flota.worker.__main__ import main


def die() -> None:
    """What comes after this is never done."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def prepare(place: str) -> None:
    """Have this process die at `place`."""
    module, name, when, *rest = place.split(":")
    *path, last = name.split(".")
    owner: Any = functools.reduce(getattr, path, importlib.import_module(module))
    original = getattr(owner, last)
    left = int(rest[0]) if rest else 1

    def counts() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    async def slowly(*args: Any, **kwargs: Any) -> Any:
        now = counts()
        if now and when == "before":
            die()
        result = await original(*args, **kwargs)
        if now:
            die()
        return result

    def at_once(*args: Any, **kwargs: Any) -> Any:
        now = counts()
        if now and when == "before":
            die()
        result = original(*args, **kwargs)
        if now:
            die()
        return result

    setattr(owner, last, slowly if inspect.iscoroutinefunction(original) else at_once)


if __name__ == "__main__":
    prepare(os.environ["DIE_AT"])
    sys.exit(main())
