"""One log as several files: nothing is lost as long as somebody looks once in two files, whatever comes in between."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flota.worker.logs import chain, files
from flota.worker.logs.files import LogFile
from tests.unit.logs.conmon import BEGIN, Conmon


@pytest.fixture
def conmon(tmp_path: Path) -> Iterator[Conmon]:
    made = Conmon(tmp_path / "log")
    yield made
    made.close()


def rest(file: LogFile) -> list[str]:
    found: list[str] = []
    while (entries := file.read()) is not None:
        found += [entry.data.decode().rstrip("\n") for entry in entries]
    return found


def lines(path: Path, **options: object) -> list[str]:
    file = LogFile(path, **options)  # type: ignore[arg-type]
    try:
        return rest(file)
    finally:
        file.close()


def names(path: Path) -> set[str]:
    return set(os.listdir(path.parent))


def compress(paths: list[Path]) -> None:
    for path in paths:
        chain.compress(path, lambda: False)


def test_full_files_are_kept_and_the_oldest_go(conmon: Conmon) -> None:
    chain.arrange(conmon.path, 2)
    for number in range(6):
        conmon.write(f"line {number}")
        conmon.rotate()
        chain.arrange(conmon.path, 2)
    conmon.write("line 6")
    assert lines(conmon.path) == ["line 4", "line 5", "line 6"]
    assert len(names(conmon.path)) == 6  # two full ones, two names each for the one that is written and for the next
    chain.finish(conmon.path)
    assert lines(conmon.path) == ["line 4", "line 5", "line 6"]
    assert len(names(conmon.path)) == 4


def test_nobody_looks_while_two_files_fill(conmon: Conmon) -> None:
    chain.arrange(conmon.path, 5)
    conmon.write("a")
    conmon.rotate()
    conmon.write("b")
    conmon.rotate()
    conmon.write("c")
    # Already before anybody has looked.
    assert lines(conmon.path) == ["a", "b", "c"]
    chain.arrange(conmon.path, 5)
    conmon.rotate()
    conmon.write("d")
    chain.arrange(conmon.path, 5)
    assert lines(conmon.path) == ["a", "b", "c", "d"]
    assert lines(conmon.path, tail=3) == ["b", "c", "d"]


def test_a_file_that_comes_before_the_prepared_one_has_a_number_before_it(
    conmon: Conmon, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.arrange(conmon.path, 5)
    conmon.write("a")
    conmon.rotate()
    conmon.write("b")
    link = os.link

    def slowly(source: Path, target: Path) -> None:
        if target.name == "log.tmp" and conmon.lines == 2:
            conmon.rotate()
            conmon.write("c")
        link(source, target)

    monkeypatch.setattr(os, "link", slowly)
    chain.arrange(conmon.path, 5)
    conmon.rotate()
    conmon.write("d")
    chain.arrange(conmon.path, 5)
    assert lines(conmon.path) == ["a", "b", "c", "d"]


def test_compressed_ones_are_read_like_others(conmon: Conmon) -> None:
    for number in range(4):
        compress(chain.arrange(conmon.path, 3))
        conmon.write(*(f"{number}.{one}" for one in range(50)))
        conmon.rotate()
    compress(chain.arrange(conmon.path, 3))
    written = [f"{number}.{one}" for number in range(4) for one in range(50)]
    assert {name for name in names(conmon.path) if name.endswith(".gz")} == {"log.2.gz", "log.3.gz", "log.4.gz"}
    assert lines(conmon.path) == written[50:]
    assert lines(conmon.path, tail=70) == written[-70:]
    assert lines(conmon.path, since=BEGIN + 125 * 1_000_000) == written[125:]


def test_a_damaged_file_is_told_by_its_name(conmon: Conmon) -> None:
    chain.arrange(conmon.path, 3)
    conmon.write("a")
    conmon.rotate()
    compress(chain.arrange(conmon.path, 3))
    packed = conmon.path.with_name("log.1.gz")
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(OSError, match=r"log\.1\.gz is damaged"):
        lines(conmon.path)


def test_a_follower_who_is_slow_reads_all_that_is_there(conmon: Conmon) -> None:
    chain.arrange(conmon.path, 3)
    conmon.write("0")
    file = LogFile(conmon.path)
    assert rest(file) == ["0"]
    for number in range(1, 4):
        conmon.rotate()
        conmon.write(str(number))
        compress(chain.arrange(conmon.path, 3))
    assert rest(file) == ["1", "2", "3"]
    for number in range(4, 9):
        conmon.rotate()
        conmon.write(str(number))
        chain.arrange(conmon.path, 3)
    # What it had open, and those there are: the others are gone.
    assert rest(file) == ["5", "6", "7", "8"]
    file.close()


def test_a_log_that_goes_on_after_a_run_is_bounded(conmon: Conmon) -> None:
    conmon.write("little")
    chain.begin(conmon.path, 1000, 1)
    assert lines(conmon.path) == ["little"]
    conmon.write("x" * 600)
    chain.begin(conmon.path, 1000, 1)
    assert not conmon.path.exists()
    again = Conmon(conmon.path)
    again.write("more")
    assert lines(conmon.path) == ["little", "x" * 600, "more"]
    again.write("y" * 600)
    chain.begin(conmon.path, 1000, 0)
    assert not conmon.path.exists()
    again.close()


@settings(max_examples=200)
@given(
    steps=st.lists(st.sampled_from(["write", "write", "rotate", "arrange", "compress", "read"]), max_size=40),
    chunk=st.integers(64, 300),
    tail=st.integers(0, 30),
    since=st.integers(-1, 30),
)
def test_nothing_is_lost_and_nothing_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], chunk: int, tail: int, since: int
) -> None:
    conmon = Conmon(tmp_path_factory.mktemp("log") / "log")
    chain.arrange(conmon.path, 100)
    follower, heard, rotated = LogFile(conmon.path), [], 0
    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        for step in steps:
            if step == "write":
                written.append(f"{conmon.lines}:" + "x" * (conmon.lines % 7 * 10))
                conmon.write(written[-1])
            elif step == "rotate":
                if rotated == 2:
                    chain.arrange(conmon.path, 100)
                    rotated = 0
                conmon.rotate()
                rotated += 1
            elif step == "read":
                heard += rest(follower)
            else:
                rotated = 0
                loose = chain.arrange(conmon.path, 100)
                if step == "compress":
                    compress(loose)
        heard += rest(follower)
        assert heard == written
        assert lines(conmon.path) == written
        assert lines(conmon.path, tail=tail) == written[max(0, len(written) - tail) :]
        assert lines(conmon.path, since=BEGIN + since * 1_000_000) == written[max(0, since) :]
        both = max(len(written) - tail, since, 0)
        assert lines(conmon.path, since=BEGIN + since * 1_000_000, tail=tail) == written[both:]
    follower.close()
    conmon.close()
