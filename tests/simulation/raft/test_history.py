"""The judge of histories is judged itself."""

from tests.simulation.raft.history import Operation, is_linearizable


def write(called: float, returned: float, value: int) -> Operation:
    return Operation("write", "x", called, value=value, returned=returned)


def read(called: float, returned: float, result: int) -> Operation:
    return Operation("read", "x", called, returned=returned, result=result)


def swap(called: float, returned: float, expected: int, value: int, result: bool) -> Operation:
    return Operation("cas", "x", called, value=value, expected=expected, returned=returned, result=result)


def test_a_read_sees_what_was_written_before_it() -> None:
    assert is_linearizable([write(0, 1, 7), read(2, 3, 7)])
    assert not is_linearizable([write(0, 1, 7), read(2, 3, 0)])


def test_overlapping_calls_may_go_either_way_but_reads_agree_on_which() -> None:
    assert is_linearizable([write(0, 9, 7), read(1, 2, 0), read(3, 4, 7)])
    assert not is_linearizable([write(0, 9, 7), read(1, 2, 7), read(3, 4, 0)])


def test_a_call_without_an_answer_may_have_happened_late_or_never() -> None:
    lost = Operation("write", "x", 0, value=7)
    assert is_linearizable([lost, read(1, 2, 0), read(5, 6, 7)])
    assert is_linearizable([lost, read(1, 2, 0), read(5, 6, 0)])
    assert not is_linearizable([lost, read(1, 2, 7), read(5, 6, 0)])


def test_a_swap_that_succeeded_had_the_value_it_expected() -> None:
    assert is_linearizable([write(0, 1, 7), swap(2, 3, 7, 8, True), read(4, 5, 8)])
    assert not is_linearizable([write(0, 1, 7), swap(2, 3, 6, 8, True)])
    assert not is_linearizable([write(0, 1, 7), swap(2, 3, 7, 8, False)])
    assert is_linearizable([write(0, 1, 7), swap(2, 3, 6, 8, False), read(4, 5, 7)])
