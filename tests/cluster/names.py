"""Names of labs, which say whose they are."""

import itertools
import os

# Labs of this process begin with it.
PREFIX = f"t{os.getpid()}-"
_numbers = itertools.count(1)


def lab_name() -> str:
    """A name no other test has now."""
    return f"{PREFIX}{next(_numbers)}"
