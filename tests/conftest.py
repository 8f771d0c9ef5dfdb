"""Property tests are the same on every run of `make test`, and look for something new in every `make soak`.

`FLOTA_SEEDS=5000 pytest -m soak` (what `make soak SEEDS=5000` does) tries that many examples of each,
other ones each time.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

EXPLORED = int(os.environ.get("FLOTA_SEEDS", "0"))
# How long an example takes says something about the machine, not about the property.
_PATIENT = [HealthCheck.too_slow, HealthCheck.filter_too_much]

settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, max_examples=100, suppress_health_check=_PATIENT
)
settings.register_profile(
    "explore", deadline=None, database=None, max_examples=max(1, EXPLORED), suppress_health_check=_PATIENT
)
settings.load_profile("explore" if EXPLORED else "steady")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Property tests are soaks too, when examples are asked for."""
    if not EXPLORED:
        return
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("soak")
