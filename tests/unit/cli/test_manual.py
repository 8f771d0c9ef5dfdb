"""Manual pages: one for each command, with what its help says, in words that troff leaves alone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flota.cli.manual import write_all
from tests.unit.cli.test_commands import ALL


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    written = write_all(tmp_path_factory.mktemp("man"))
    return {path.name: path.read_text() for path in written}


def test_every_command_has_a_page(pages: dict[str, str]) -> None:
    assert {f"flota-{'-'.join(path)}.1" for path in ALL} <= set(pages)
    assert {"flota.1", "flota-service.1"} <= set(pages)


def test_a_page_says_what_the_help_says(pages: dict[str, str]) -> None:
    page = pages["flota-stack-rollback.1"]
    assert "flota\\-stack\\-rollback \\- Bring STACK back to a revision of its history" in page
    assert "\\fB\\-\\-to REVISION\\fR" in page
    assert "flota stack rollback \\-\\-to 3 shop" in page
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT"):
        assert f".SH {section}\n" in page
    assert "\\fBflota\\-stack\\fR(1)" in page


def test_only_macros_begin_with_a_dot(pages: dict[str, str]) -> None:
    macros = re.compile(r"\.(TH|SH|PP|TP|nf|fi)\b")
    for name, page in pages.items():
        for line in page.splitlines():
            assert macros.match(line) or not line.startswith((".", "'")), f"{name}: {line}"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_has_nothing_to_say(pages: dict[str, str], tmp_path: Path) -> None:
    for name, page in pages.items():
        (tmp_path / name).write_text(page)
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-K", "utf8", *tmp_path.iterdir()], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
