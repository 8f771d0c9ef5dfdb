"""How the kernel writes a set of processors."""

import pytest

from flota.overlay.steering import mask


@pytest.mark.parametrize(
    ("processors", "written"),
    [(2, "00000003"), (32, "ffffffff"), (33, "00000001,ffffffff"), (96, "ffffffff,ffffffff,ffffffff")],
)
def test_processors_are_written_in_words_of_32_bits(processors: int, written: str) -> None:
    assert mask(processors) == written
