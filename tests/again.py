"""What failed in the last run of pytest, once more: one after the other, with the machine to itself (`make test`)."""

import json
import re
import sys
from pathlib import Path

import pytest

_FAILED = Path(__file__).parents[1] / ".pytest_cache/v/cache/lastfailed"


def main() -> int:
    """Exit status: pytest's; that of no tests when none is known to have failed."""
    # pytest's own --last-failed takes a test whose group pytest-xdist has added to its name for another one.
    known = json.loads(_FAILED.read_text()) if _FAILED.exists() else {}
    failed = [re.sub(r"@[\w.-]+$", "", name) for name in known]
    print(f"once more, alone: {len(failed)} that failed", flush=True)
    return pytest.main(["-n", "0", *failed]) if failed else pytest.ExitCode.NO_TESTS_COLLECTED


if __name__ == "__main__":
    sys.exit(main())
