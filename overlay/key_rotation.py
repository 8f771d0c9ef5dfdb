"""When a node's WireGuard keys are replaced: the steps of tunnel_keys.py, one after the other, on the event loop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from flota.overlay.errors import OverlayError
from flota.overlay.tunnel_keys import LIFE, SETTLE, OwnKeys

log = logging.getLogger(__name__)

# Seconds between looks at whether all devices are there.
_LOOK = 5.0


class Rotation:
    """`run` it. `life` and `settle` are seconds; `change` brings keys into force, `repair` devices that are gone."""

    def __init__(
        self,
        current: Callable[[], OwnKeys],
        change: Callable[[OwnKeys], Awaitable[None]],
        repair: Callable[[], Awaitable[None]],
        *,
        life: float = LIFE,
        settle: float = SETTLE,
    ) -> None:
        self._current = current
        self._change = change
        self._repair = repair
        self._life = life
        self._settle = settle
        self._now = asyncio.Event()

    def hurry(self) -> None:
        """Take the next step now: begin to replace the key, or go on with it before others have had their time."""
        self._now.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                await self._step()
            except (OverlayError, OSError) as error:
                log.warning("WireGuard: %s", error)
                await asyncio.sleep(_LOOK)

    async def _step(self) -> None:
        keys = self._current()
        if len(keys.keys) == 2:
            # One step that an earlier worker has begun is taken again, which costs time and nothing else.
            await self._hurried_within(self._settle)
            await self._change(keys.use() if keys.sending != keys.newest.generation else keys.forget())
            return
        left = keys.newest.made + self._life - time.time()
        if left <= 0 or await self._hurried_within(min(left, _LOOK)):
            await self._change(keys.announce(time.time()))
        else:
            await self._repair()

    async def _hurried_within(self, seconds: float) -> bool:
        """Wait so long, or until somebody cannot; whether so."""
        try:
            async with asyncio.timeout(seconds):
                await self._now.wait()
        except TimeoutError:
            return False
        self._now.clear()
        return True
