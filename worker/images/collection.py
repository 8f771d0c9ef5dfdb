"""Which images nobody needs any more go by themselves: those that are old, and when the disk is full the oldest.

Only images that came from a registry: whatever was loaded or imported here nobody could get again. Never one that a
task needs, nor one that came or was needed a moment ago. The two marks are those of kubelet's image collection.
Pure; the store asks from time to time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flota.worker.images.index import ImageRecord, Index

# Seconds for which an image stays whatever the disk says: a task may be about to need it.
MOMENT = 120.0


@dataclass(frozen=True)
class Rules:
    """`max_age` in seconds, `high` and `low` in per cent of the disk; 0 = not by that."""

    max_age: float = 0.0
    high: int = 85
    low: int = 80


@dataclass(frozen=True)
class Disk:
    """The disk that images are on, in bytes."""

    used: int
    total: int


def choose(index: Index, held: Collection[str], rules: Rules, disk: Disk, now: float) -> list[str]:
    """Ids of the images to remove. `held` are those that tasks need, `now` in seconds since 1970."""
    free = [(one.used, image_id) for image_id, one in index.images.items() if _may_go(one) and image_id not in held]
    free.sort()
    gone = [image_id for used, image_id in free if rules.max_age and now - used > rules.max_age]
    if rules.high and disk.total and disk.used * 100 >= disk.total * rules.high:
        wanted = disk.used - disk.total * rules.low // 100
        for used, image_id in free:
            if freed(index, gone) >= wanted:
                break
            if image_id not in gone and now - used > MOMENT:
                gone.append(image_id)
    return gone


def freed(index: Index, image_ids: Sequence[str]) -> int:
    """Bytes of the layers that go with these images."""
    left = index.without(image_ids).layers
    return sum(layer.size for chain_id, layer in index.layers.items() if chain_id not in left)


def _may_go(image: ImageRecord) -> bool:
    return image.pulled and not image.removed
