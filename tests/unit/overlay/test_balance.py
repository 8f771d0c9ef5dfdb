"""What stands behind virtual addresses, and which changes of it cannot wait."""

import pytest

from flota.overlay.balance import Balance, only_grows


@pytest.mark.parametrize(
    ("old", "new", "grows"),
    [
        ({"10.0.0.2": ("a", "b")}, {"10.0.0.2": ("a", "b", "c")}, True),
        ({"10.0.0.2": ("a",), "10.0.0.3": ()}, {"10.0.0.2": ("a", "b"), "10.0.0.3": ()}, True),
        # Somebody is sent to a task that is gone.
        ({"10.0.0.2": ("a", "b")}, {"10.0.0.2": ("b", "c")}, False),
        ({"10.0.0.2": ("a",)}, {"10.0.0.2": ()}, False),
        # Somebody is refused.
        ({"10.0.0.2": ()}, {"10.0.0.2": ("a",)}, False),
        ({"10.0.0.2": ("a",), "10.0.0.3": ()}, {"10.0.0.2": ("a", "b"), "10.0.0.3": ("c",)}, False),
        ({}, {"10.0.0.2": ("a",)}, False),
        ({"10.0.0.2": ("a",)}, {}, False),
    ],
)
def test_only_more_tasks_to_share_the_work_can_wait(old: Balance, new: Balance, grows: bool) -> None:
    assert only_grows(old, new) is grows
