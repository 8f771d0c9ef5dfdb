"""What the kernel makes of single messages, in a network namespace of their own. Needs root."""

import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.cluster.overlay.machines import run

SEND = """
from flota.overlay.links import mark_rule, mark_rule_removal
from flota.overlay.netlink import RouteSocket
with RouteSocket() as routes:
    routes.send([{}(0x105, version) for version in (4, 6)])
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"links-{uuid4().hex[:8]}"
    run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        run("ip", "netns", "delete", name)


def test_a_rule_for_a_mark_that_is_put_twice_is_there_once(namespace: str) -> None:
    def send(what: str) -> None:
        run("ip", "netns", "exec", namespace, sys.executable, "-c", SEND.format(what))

    def rules(version: str) -> int:
        return run("ip", version, "-n", namespace, "rule", "show", "fwmark", "0x105").count("lookup")

    send("mark_rule")
    send("mark_rule")
    assert [rules("-4"), rules("-6")] == [1, 1]
    send("mark_rule_removal")
    assert [rules("-4"), rules("-6")] == [0, 0]
