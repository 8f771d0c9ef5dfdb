"""The contract in proto/: generated modules are fresh, every call says who may make it, every field says what it is."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor

from flota.v1 import auth_pb2

PROTO = Path(__file__).resolve().parents[2] / "proto"
FILES = sorted((PROTO / "flota/v1").glob("*.proto"))


def methods() -> list[MethodDescriptor]:
    return [
        method
        for file in FILES
        for service in importlib.import_module(f"flota.v1.{file.stem}_pb2").DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def test_generated_modules_are_fresh(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO),
            f"--plugin=protoc-gen-mypy={scripts}/protoc-gen-mypy",
            f"--plugin=protoc-gen-mypy_grpc={scripts}/protoc-gen-mypy_grpc",
            f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}",
            f"--mypy_out=quiet:{tmp_path}", f"--mypy_grpc_out=quiet:{tmp_path}",
            *map(str, FILES),
        ],
        check=True,
    )  # fmt: skip
    made = {file.relative_to(tmp_path): file.read_text() for file in tmp_path.rglob("*_pb2*")}
    kept = {file.relative_to(PROTO): file.read_text() for file in PROTO.rglob("*_pb2*") if file.suffix != ".pyc"}
    assert sorted(made) == sorted(kept), "run `make proto`"
    stale = [str(name) for name in made if made[name] != kept[name]]
    assert stale == [], "run `make proto`"


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.full_name)
def test_every_call_says_who_may_make_it(method: MethodDescriptor) -> None:
    options = method.GetOptions()
    assert options.HasExtension(auth_pb2.authorization)
    callers = options.Extensions[auth_pb2.authorization].callers
    assert callers
    assert auth_pb2.CALLER_UNSPECIFIED not in callers


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_proto_file_says_what_it_is_for(file: Path) -> None:
    head = re.match(r'syntax = "proto3";\n\n((?://.*\n)+)package flota\.v1;', file.read_text())
    assert head, "a comment between syntax and package says what the file is for"
