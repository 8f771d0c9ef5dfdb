"""The daemon's directories and its record: one daemon at a time, one line when that cannot be."""

import os
from pathlib import Path

import pytest

from flota.node import record as records
from flota.node.options import DaemonOptions
from flota.node.places import CannotStart, Places
from flota.v1.process_pb2 import NodeRecord
from flota.v1.types_pb2 import Peer


def test_a_directory_has_one_daemon_and_a_second_one_is_told_who(tmp_path: Path) -> None:
    first = Places(tmp_path / "state", tmp_path / "run").claim()
    for second in (Places(tmp_path / "state", tmp_path / "run2"), Places(tmp_path / "state2", tmp_path / "run")):
        taken = tmp_path / ("state" if second.state.name == "state" else "run")
        with pytest.raises(CannotStart, match=rf"another flota daemon \(process {os.getpid()}\) is using {taken}$"):
            second.claim()
    for descriptor in first:
        os.close(descriptor)
    for descriptor in Places(tmp_path / "state", tmp_path / "run").claim():
        os.close(descriptor)


def test_what_was_taken_is_given_back_when_the_rest_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=r"cannot use the directory .*/file/run: Not a directory"):
        Places(tmp_path / "state", tmp_path / "file/run").claim()
    for descriptor in Places(tmp_path / "state", tmp_path / "run").claim():
        os.close(descriptor)


def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"the sockets in it would have paths of \d+ bytes, 107 are allowed"):
        Places(tmp_path / "state", tmp_path / ("x" * 100)).claim()


def test_a_record_is_kept_and_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    assert records.load(file) is None
    record = NodeRecord(advertise_address="192.0.2.2:2377", managers=[Peer(node_id="n1", address="192.0.2.1:2377")])
    records.store(file, record)
    assert records.load(file) == record
    assert list(tmp_path.iterdir()) == [file]
    # Power went while it was being replaced.
    file.with_suffix(".new").touch()
    records.remove(file)
    assert not list(tmp_path.iterdir())
    records.remove(file)
    assert records.load(file) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"colour": "red"}', b"\xff\xfe"])
def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node.json").write_bytes(content)
    with pytest.raises(CannotStart, match=r"node\.json cannot be read: "):
        records.load(tmp_path / "node.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DaemonOptions(state_directory=Path("here")), "invalid --state-dir 'here': an absolute path is needed"),
        (DaemonOptions(cgroup_parent="flota"), "invalid --cgroup-parent 'flota': a path like /flota is needed"),
        (DaemonOptions(cgroup_parent="/a/../b"), "invalid --cgroup-parent '/a/../b'"),
        (DaemonOptions(manager_metrics="9323"), "invalid --manager-metrics '9323': host:port is needed, or nothing"),
        (DaemonOptions(worker_metrics="x:0"), "invalid --worker-metrics 'x:0'"),
        (DaemonOptions(engine_labels={"": "x"}), "invalid --label: it has no key"),
        (DaemonOptions(insecure_registries=["http://r"]), "invalid --insecure-registry 'http://r': HOST\\[:PORT\\]"),
        (DaemonOptions(generic_resources=["gpu"]), "invalid --generic-resource 'gpu': KIND=NUMBER or KIND=NAME"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: DaemonOptions, words: str) -> None:
    with pytest.raises(CannotStart, match=words):
        options.check()


def test_the_defaults_are_allowed() -> None:
    DaemonOptions().check()
    DaemonOptions(manager_metrics="", worker_metrics="[::1]:9", generic_resources=["gpu=2", "gpu=UUID1"]).check()
    DaemonOptions(insecure_registries=["registry", "registry:5000", "10.0.0.1:80", "[fd00::1]:5000"]).check()
