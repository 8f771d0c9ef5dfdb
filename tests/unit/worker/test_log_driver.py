"""Log drivers and their options."""

from pathlib import Path

import pytest

from flota.v1.types_pb2 import Driver
from flota.worker.runtime.container import BadContainer, Log
from flota.worker.tasks import log_driver
from flota.worker.tasks.log_driver import log_of


@pytest.mark.parametrize(
    ("text", "size"),
    [("-1", 0), ("500", 500), ("10k", 10 << 10), ("10M", 10 << 20), ("1gb", 1 << 30), ("7b", 7)],
)
def test_the_size_of_a_log(text: str, size: int) -> None:
    assert log_of(Driver(name="json-file", options={"max-size": text})) == Log(size)


@pytest.mark.parametrize(
    ("name", "options", "log"),
    [
        ("json-file", {"max-size": "10m", "max-file": "3"}, Log(10 << 20, files=3)),
        ("json-file", {"max-size": "-1", "max-file": "3"}, Log(0)),
        ("json-file", {}, Log(50 << 20, files=2)),
        ("json-file", {"max-file": "3"}, Log(50 << 20, files=2)),
        ("json-file", {"max-size": "1m", "max-file": "2", "compress": "true"}, Log(1 << 20, files=2, compress=True)),
        # As with Docker there is nothing to compress then, but no harm either.
        ("json-file", {"max-size": "1k", "compress": "true", "labels": "a,b", "mode": "non-blocking"}, Log(1024)),
        ("local", {}, Log(20 << 20, files=5)),
        ("local", {"max-size": "1m"}, Log(1 << 20, files=5)),
        ("local", {"max-size": "1m", "max-file": "1"}, Log(1 << 20)),
    ],
)
def test_how_many_files(name: str, options: dict[str, str], log: Log) -> None:
    assert log_of(Driver(name=name, options=options)) == log


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (
            Driver(name="syslog"),
            "unknown log driver 'syslog': this node has json-file, local",
        ),
        (Driver(options={"max-size": "much"}), "invalid max-size 'much'"),
        (Driver(options={"max-size": "k"}), "invalid max-size 'k'"),
        (Driver(options={"max-size": "1.5m"}), "invalid max-size"),
        (Driver(options={"max-file": "0"}), "invalid max-file '0' of the log: a number of at least 1"),
        (Driver(options={"max-file": "x", "max-size": "1m"}), "invalid max-file 'x' of the log"),
        (Driver(options={"compress": "much"}), "invalid compress 'much' of the log: true or false is needed"),
        (Driver(options={"max-file": "-2"}), "invalid max-file '-2'"),
        (
            Driver(name="json-file", options={"max-sise": "1m"}),
            "unknown option 'max-sise' of log driver json-file: one of .*, max-file, max-size",
        ),
        (Driver(name="local", options={"tag": "x"}), "unknown option 'tag' of log driver local: one of"),
    ],
)
def test_a_log_that_cannot_be_kept(driver: Driver, why: str) -> None:
    with pytest.raises(BadContainer, match=why):
        log_of(driver)


def test_logs_that_are_no_files_or_more_than_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_of(Driver(name="none", options={"max-size": "x"})) == Log(kept=False)
    monkeypatch.setattr(log_driver, "_JOURNAL", tmp_path / "socket")
    with pytest.raises(BadContainer, match="no journald listens on this node"):
        log_of(Driver(name="journald"))
    (tmp_path / "socket").touch()
    assert log_of(Driver(name="journald", options={"max-size": "1k"})) == Log(1024, journal=True)
