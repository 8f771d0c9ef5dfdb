"""`flota lab` while other labs come and go."""

import pytest
from click.testing import CliRunner

from flota.node.lab import Lab
from flota.node.lab.__main__ import lab


def test_a_lab_that_goes_while_labs_are_listed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter([["gone"], []])
    monkeypatch.setattr(Lab, "names", lambda: next(names, []))
    done = CliRunner().invoke(lab, ["ls"])
    assert (done.exit_code, done.output.split()) == (0, ["LAB", "NODE", "ADDRESS", "ROLE", "STATE"])
