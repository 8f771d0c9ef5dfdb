"""Every transcript is what the members really say (transcript.py tells how to read and to write one)."""

from pathlib import Path

import pytest

from tests.unit.raft.transcript import rewritten

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_members_say_what_the_transcript_says(path: Path) -> None:
    text = path.read_text()
    assert rewritten(text).splitlines() == text.splitlines()


def test_there_is_a_transcript_for_every_subtle_case() -> None:
    assert len(TRANSCRIPTS) >= 18
