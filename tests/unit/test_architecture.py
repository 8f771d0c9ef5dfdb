"""The structure that docs/rooms.md promises: rooms import downwards only, and every list of them agrees."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]

# What each room may import beside itself. The table in docs/rooms.md says the same to people.
MAY_IMPORT = {
    "flota.v1": set(),
    "flota.rpc": {"flota.v1"},
    "flota.stacks": {"flota.v1"},
    "flota.templates": set(),
    "flota.overlay": {"flota.v1"},
    "flota.worker": {"flota.overlay", "flota.templates", "flota.rpc", "flota.v1"},
    "flota.manager": {"flota.rpc", "flota.v1"},
    "flota.node": {"flota.manager", "flota.worker", "flota.overlay", "flota.rpc", "flota.v1"},
    "flota.simulation": {"flota.manager", "flota.stacks", "flota.v1"},
    "flota.gateway": {"flota.rpc", "flota.v1"},
    "flota.cli": {"flota.gateway", "flota.stacks", "flota.templates", "flota.rpc", "flota.v1"},
}


def imports_of(file: Path) -> set[str]:
    """Every flota module a file imports, also within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "flota"}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_every_room_is_known_in_every_list() -> None:
    assert set(FOLDERS) == set(MAY_IMPORT)
    views = {f"flota.{link.name}": link.resolve() for link in (ROOT / ".src/flota").iterdir()}
    assert views == {room: ROOT / folder for room, folder in FOLDERS.items()}
    table = (ROOT / "docs/rooms.md").read_text()
    for room in MAY_IMPORT:
        assert f"`{room}`" in table


def test_the_package_list_names_every_package() -> None:
    packages = {
        ".".join([room, *init.parent.relative_to(ROOT / folder).parts])
        for room, folder in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
        # The example is an application of its own.
        if not init.is_relative_to(ROOT / "stacks/examples")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_down(room: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in sorted((ROOT / FOLDERS[room]).rglob("*.py"))
        for module in sorted(imports_of(file))
        if room_of(module) not in MAY_IMPORT[room] | {room}
    ]
    assert wrong == []


def test_only_rpc_builds_channels_and_credentials() -> None:
    words = ("insecure_channel(", "secure_channel(", "ssl_channel_credentials(", "ssl_server_credentials(")
    wrong = [
        str(file.relative_to(ROOT))
        for room, folder in FOLDERS.items()
        if room not in ("flota.rpc", "flota.v1")
        for file in (ROOT / folder).rglob("*.py")
        if any(word in file.read_text() for word in words)
    ]
    assert wrong == []
