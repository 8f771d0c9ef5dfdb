"""What stands behind virtual addresses, which changes of it cannot wait, and what the kernel is told of long rows."""

import re
from random import Random

import pytest

from flota.overlay.balance import Balance, Rows, change, loaded, only_grows


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


VIRTUAL = "10.0.0.2"
TASKS = [f"10.0.1.{number}" for number in range(1, 200)]


class Kernel:
    """What becomes of one virtual address's rule and map by the commands that it is sent."""

    def __init__(self) -> None:
        self.map: dict[int, str] | None = None
        self.rule = ""

    def take(self, commands: str) -> int:
        """Carry them out; how many elements of the map they name."""
        named = 0
        for line in commands.splitlines():
            if line.startswith("add map "):
                assert self.map is None
                self.map = {}
            elif line.startswith("flush map "):
                self.map = {}
            elif line.startswith("delete map "):
                assert not self.rule, "a map that a rule uses cannot go"
                self.map = None
            elif line.startswith("flush chain "):
                self.rule = ""
            elif line.startswith("add rule "):
                self.rule = line
            elif found := re.match(r"(add|delete) element ip flota row_\S+ \{ (.*) \}", line):
                assert self.map is not None
                for element in found[2].split(", "):
                    place, _, address = element.partition(" : ")
                    assert (int(place) in self.map) is (found[1] == "delete")
                    if found[1] == "delete":
                        del self.map[int(place)]
                    else:
                        self.map[int(place)] = address
                    named += 1
        return named

    def turn(self) -> list[str]:
        """Who gets connections, one after the other."""
        if not self.rule:
            return []
        if found := re.search(r"mod (\d+) map @row_", self.rule):
            assert self.map is not None
            return [self.map[place] for place in range(int(found[1]))]
        return re.findall(r"10\.0\.1\.\d+", self.rule)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_each_task_has_its_turn_once(seed: int) -> None:
    random, kernel = Random(seed), Kernel()
    old: Balance = {}
    rows: Rows = {}
    for step in range(60):
        some = random.sample(TASKS, random.choice((0, 1, 2, 49, 50, 51, 150, 199)))
        few = (*old.get(VIRTUAL, ()), *some[:1])[random.randrange(3) :]
        new = {VIRTUAL: tuple(sorted(set(random.choice((some, few)))))} if random.random() < 0.95 else {}
        if step and random.random() < 0.1:
            # Another process goes on with what the kernel has.
            names = "chain vip_10.0.0.2 {\n" * (VIRTUAL in old) + "map row_10.0.0.2 {\n" * (kernel.map is not None)
            old, rows = loaded(names)
        commands, rows = change(old, new, rows, random)
        kernel.take(commands)
        assert sorted(kernel.turn()) == sorted(new.get(VIRTUAL, ()))
        assert (kernel.map is not None) is (VIRTUAL in rows)
        old = new


def test_of_a_long_row_only_what_changes_is_told() -> None:
    kernel, random = Kernel(), Random(1)
    everybody = {VIRTUAL: tuple(TASKS)}
    commands, rows = change({}, everybody, {}, random)
    assert kernel.take(commands) == len(TASKS)
    commands, rows = change(everybody, {VIRTUAL: tuple(TASKS[:90] + TASKS[91:])}, rows, random)
    assert kernel.take(commands) <= 8
    assert sorted(kernel.turn()) == sorted(TASKS[:90] + TASKS[91:])
