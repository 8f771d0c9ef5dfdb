"""Log files: what is read of them, from where on, and what happens when they are replaced."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.worker.logs import files
from flota.worker.logs.entries import LogEntry, Parser
from flota.worker.logs.files import LogFile
from tests.unit.logs.conmon import BEGIN, ERR, OUT, Conmon, line


@pytest.fixture
def conmon(tmp_path: Path) -> Iterator[Conmon]:
    made = Conmon(tmp_path / "log")
    yield made
    made.close()


def rest(file: LogFile) -> list[LogEntry]:
    """All there is now."""
    found: list[LogEntry] = []
    while (entries := file.read()) is not None:
        found += entries
    return found


def texts(file: LogFile) -> list[str]:
    return [entry.data.decode().rstrip("\n") for entry in rest(file)]


def lines(conmon: Conmon, **options: object) -> list[str]:
    file = LogFile(conmon.path, **options)  # type: ignore[arg-type]
    try:
        return texts(file)
    finally:
        file.close()


def test_whole_lines_and_parts(conmon: Conmon) -> None:
    conmon.write("a", "")
    conmon.write("par", mark="P")
    conmon.write("oops", stream="stderr")
    conmon.write("t")
    file = LogFile(conmon.path)
    assert rest(file) == [
        line(0, "a"),
        line(1, ""),
        LogEntry(BEGIN + 2_000_000, OUT, b"par"),
        line(3, "oops", ERR),
        line(4, "t"),
    ]
    assert file.read() is None
    conmon.write("more")
    assert rest(file) == [line(5, "more")]
    file.close()


def test_times_of_any_zone() -> None:
    parser = Parser()
    for text, nanoseconds in (
        (b"2026-01-01T00:00:00.000000001+00:00", BEGIN + 1),
        (b"2026-01-01T01:30:00.999999999+01:30", BEGIN + 999_999_999),
        (b"2025-12-31T19:00:00.000000000-05:00", BEGIN),
    ):
        entry = parser.entry(text + b" stderr F x")
        assert entry == LogEntry(nanoseconds, ERR, b"x\n")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0\0\0",
        b"no time at all",
        b"2026-01-01T00:00:00.000000000+00:00 stdout F",
        b"2026-01-01T00:00:00.000000000+00:00 other F x",
        b"2026-01-01T00:00:00.000000000+00:00 stdout X x",
        b"2026-01-01T00:00:00.00000000x+00:00 stdout F x",
        b"2026-01-01T00:00:00.000000000 stdout F x",
        b"2026-13-01T00:00:00.000000000+00:00 stdout F x",
    ],
)
def test_what_is_no_line_is_passed_over(conmon: Conmon, text: bytes) -> None:
    conmon.write("before")
    conmon.raw(text + b"\n")
    conmon.write("after")
    assert lines(conmon) == ["before", "after"]


def test_a_line_that_is_not_there_wholly_waits(conmon: Conmon) -> None:
    conmon.raw(b"2026-01-01T00:00:00.000000000+00:00 stdout F to")
    file = LogFile(conmon.path)
    assert texts(file) == []
    conmon.raw(b"gether\n")
    assert texts(file) == ["together"]
    file.close()


def test_streams(conmon: Conmon) -> None:
    conmon.write("out")
    conmon.write("err", stream="stderr")
    assert lines(conmon, streams=[ERR]) == ["err"]
    assert lines(conmon, streams=[OUT]) == ["out"]
    assert lines(conmon, streams=[OUT], tail=1) == ["out"]


def test_tail(conmon: Conmon) -> None:
    conmon.write("a", "b", "c")
    conmon.write("part", mark="P")
    conmon.write("s", "d")
    assert lines(conmon, tail=0) == []
    assert lines(conmon, tail=1) == ["d"]
    assert lines(conmon, tail=2) == ["part", "s", "d"]
    assert lines(conmon, tail=3) == ["c", "part", "s", "d"]
    assert lines(conmon, tail=9) == ["a", "b", "c", "part", "s", "d"]


def test_nothing_but_what_comes_after_a_tail_of_none(conmon: Conmon) -> None:
    conmon.write("a")
    file = LogFile(conmon.path, tail=0)
    assert texts(file) == []
    conmon.write("b")
    assert texts(file) == ["b"]
    conmon.rotate()
    conmon.write("c")
    assert texts(file) == ["c"]
    file.close()


@given(
    lengths=st.lists(st.integers(0, 400), max_size=60),
    chunk=st.integers(64, 600),
    tail=st.integers(0, 70),
    since=st.integers(-1, 61),
)
def test_tail_and_since_in_files_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], chunk: int, tail: int, since: int
) -> None:
    conmon = Conmon(tmp_path_factory.mktemp("log") / "log")
    written = [f"{number}:" + "x" * length for number, length in enumerate(lengths)]
    conmon.write(*written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        moment = BEGIN + since * 1_000_000
        assert lines(conmon, tail=tail) == written[max(0, len(written) - tail) :]
        assert lines(conmon, since=moment) == written[max(0, since) :]
        both = max(len(written) - tail, since, 0)
        assert lines(conmon, since=moment, tail=tail) == written[both:]
    conmon.close()


def test_since_reads_little_of_a_large_file(conmon: Conmon) -> None:
    conmon.write(*("x" * 1000 for _ in range(3000)))
    file = LogFile(conmon.path, since=BEGIN + 2990 * 1_000_000)
    first = file.read()
    assert first is not None
    assert len(first) + len(rest(file)) == 10
    file.close()
    # The whole file is of 50 parts.
    reads = 0
    file = LogFile(conmon.path, since=BEGIN + 2990 * 1_000_000)
    while file.read() is not None:
        reads += 1
    assert reads <= 3
    file.close()


def test_a_new_file_is_read_after_the_rest_of_the_old_one(conmon: Conmon) -> None:
    conmon.write("a")
    file = LogFile(conmon.path, tail=1)
    assert texts(file) == ["a"]
    conmon.write("b")
    conmon.rotate()
    conmon.write("c")
    assert texts(file) == ["b", "c"]
    conmon.rotate()
    conmon.rotate()
    conmon.write("d")
    assert texts(file) == ["d"]
    file.close()


def test_a_file_that_was_cut_is_read_from_its_beginning(conmon: Conmon) -> None:
    conmon.write("a", "b")
    file = LogFile(conmon.path)
    assert texts(file) == ["a", "b"]
    with conmon.path.open("r+b") as opened:
        opened.truncate(0)
    conmon.write("c")
    assert texts(file) == ["c"]
    file.close()


def test_a_file_that_is_not_there_may_come(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", tail=1)
    assert file.read() is None
    conmon = Conmon(tmp_path / "log")
    conmon.write("a", "b")
    assert texts(file) == ["a", "b"]
    conmon.path.unlink()
    conmon.write("c")
    assert texts(file) == ["c"]
    file.close()
    conmon.close()


def test_a_line_without_end_is_not_kept_for_ever(conmon: Conmon) -> None:
    conmon.raw(b"x" * (3 << 20))
    file = LogFile(conmon.path)
    assert texts(file) == []
    conmon.raw(b"\n")
    conmon.write("after")
    assert texts(file) == ["after"]
    file.close()
