"""What the documents say of the tree is there: files by their names, and what links lead to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ROOMS = ("cli", "demo", "gateway", "manager", "node", "overlay", "proto", "rpc", "simulation", "stacks", "templates",
         "tests", "bench", "setup", "vagrant", "worker")  # fmt: skip
SOURCES = {f"/{path.relative_to(ROOT)}" for room in ROOMS for path in (ROOT / room).rglob("*.*")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(document: Path) -> None:
    """`a/b.py` may be short for any path that ends so."""
    named = re.findall(r"`([\w./-]+\.(?:py|proto|sh))`", document.read_text())
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in SOURCES)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []
