"""Names for services and containers that were given none, as Docker makes them up: two words that are easy to say."""

from collections.abc import Callable
from random import Random

_FIRST = (
    "able", "amber", "brave", "brisk", "calm", "clever", "coral", "eager", "early", "fair", "fleet", "fond", "gentle",
    "glad", "golden", "hardy", "honest", "jolly", "keen", "kind", "light", "lively", "lucky", "merry", "mighty", "neat",
    "noble", "patient", "plucky", "proud", "quick", "quiet", "ready", "sunny", "swift", "tidy", "true", "warm", "wise",
    "witty",
)  # fmt: skip
_SECOND = (
    "anchor", "barge", "beacon", "bosun", "bow", "brig", "buoy", "cabin", "canoe", "caravel", "clipper", "compass",
    "convoy", "cove", "cutter", "dinghy", "ferry", "frigate", "galley", "gull", "harbour", "helm", "island", "keel",
    "ketch", "lagoon", "lantern", "lugger", "mast", "oar", "pilot", "pinnace", "rudder", "sail", "schooner", "skiff",
    "sloop", "tide", "tug", "yawl",
)  # fmt: skip


def made_up_name(rng: Random, taken: Callable[[str], bool]) -> str:
    """A name that is not taken; a number is added once the words alone have become hard to find."""
    for attempt in range(1, 1_000_000):
        name = f"{rng.choice(_FIRST)}-{rng.choice(_SECOND)}"
        if attempt > 10:
            name += f"-{rng.randrange(attempt)}"
        if not taken(name):
            return name
    raise AssertionError("a million names were taken")
