"""A message that is cut anywhere is cut anew, between its fields."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from flota.manager.store.fields import whole_fields
from flota.v1.objects_pb2 import Task
from flota.v1.store_pb2 import Object, StoreSnapshot, SwarmEvent

# All kinds of fields: bytes, and (a task alone) numbers, too.
SNAPSHOT = StoreSnapshot(
    objects=[Object(task=Task(id="t" * length)) for length in (0, 1, 100, 200, 40_000)],
    events=[SwarmEvent(), SwarmEvent()],
).SerializeToString()
TASK = Task(id="t1", slot=2**40, service_id="s").SerializeToString()


@given(st.lists(st.integers(1, 60), min_size=1), st.sampled_from([SNAPSHOT, TASK]))
def test_parts_merge_to_the_message_and_each_is_one(sizes: list[int], data: bytes) -> None:
    kind = StoreSnapshot if data is SNAPSHOT else Task
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    parts = list(whole_fields([*pieces, data[at:]]))
    assert b"".join(parts) == data
    for part in parts:
        kind.FromString(part)


@pytest.mark.parametrize("cut", range(1, len(TASK)))
def test_what_ends_in_the_middle_of_a_field_is_no_message(cut: int) -> None:
    try:
        Task.FromString(TASK[:cut])
    except DecodeError:
        with pytest.raises(DecodeError):
            list(whole_fields([TASK[:cut]]))
    else:
        assert b"".join(whole_fields([TASK[:cut]])) == TASK[:cut]


@pytest.mark.parametrize("data", [b"\x0b", b"\xff" * 11, b"\x0a" + b"\xff" * 11])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        list(whole_fields([data]))
