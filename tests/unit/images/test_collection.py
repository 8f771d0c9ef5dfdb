"""Which images go by themselves."""

from dataclasses import replace

import pytest

from flota.worker.images.collection import Disk, Rules, choose, freed
from flota.worker.images.index import ImageRecord, Index, LayerRecord

DAY = 86400.0
NOW = 100 * DAY
EMPTY = Disk(10, 100)
LAYERS = {name: LayerRecord(name, name, 10) for name in ("base", "a", "b", "c", "d")}
IMAGES = {
    "old": ImageRecord(layers=("base", "a"), pulled=True, used=NOW - 30 * DAY),
    "older": ImageRecord(layers=("b",), pulled=True, used=NOW - 40 * DAY),
    "new": ImageRecord(layers=("base", "c"), pulled=True, used=NOW - 3600),
    "loaded": ImageRecord(layers=("d",), used=0.0),
}
INDEX = Index(IMAGES, LAYERS)


def test_by_age_unless_a_task_needs_it_or_nobody_could_get_it_again() -> None:
    assert set(choose(INDEX, (), Rules(max_age=7 * DAY), EMPTY, NOW)) == {"old", "older"}
    assert choose(INDEX, {"older"}, Rules(max_age=7 * DAY), EMPTY, NOW) == ["old"]
    assert choose(INDEX, (), Rules(max_age=0), EMPTY, NOW) == []


@pytest.mark.parametrize(
    ("used", "gone"),
    [(84, []), (85, ["older"]), (91, ["older", "old"]), (100, ["older", "old"])],
)
def test_a_full_disk_takes_the_oldest_until_there_is_room(used: int, gone: list[str]) -> None:
    assert choose(INDEX, (), Rules(), Disk(used, 100), NOW) == gone


def test_a_full_disk_does_not_take_what_has_just_come() -> None:
    images = IMAGES | {"new": replace(IMAGES["new"], used=NOW - 1)}
    assert "new" not in choose(Index(images, LAYERS), (), Rules(), Disk(100, 100), NOW)


def test_no_rule_for_the_disk() -> None:
    assert choose(INDEX, (), Rules(high=0, low=0), Disk(100, 100), NOW) == []


def test_shared_layers_are_not_freed_before_the_last_image() -> None:
    assert freed(INDEX, ["old"]) == 10
    assert freed(INDEX, ["old", "new"]) == 30
