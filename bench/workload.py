"""The same day in the life of a swarm, for whoever offers its verbs. All times are in seconds."""

import statistics
import time
from collections.abc import Callable
from typing import Protocol

IMAGE = "bench:1"
MANAGERS = 3
# Seconds after which a call to a manager whose leader has died is tried again.
IMPATIENCE = 2


class Swarm(Protocol):
    """What a side of the comparison can do. Machines are numbered from 0; the first three become managers."""

    name: str

    def up(self, machines: int) -> None: ...
    def init(self) -> None: ...
    def join(self, index: int, manager: bool) -> None: ...
    def create(self, name: str, replicas: int, via: int = 0) -> None: ...
    def scale(self, name: str, replicas: int) -> None: ...
    def set_environment(self, name: str, value: str) -> None: ...
    def update_completed(self, name: str) -> bool: ...
    def remove(self, name: str) -> None: ...
    def running(self, name: str, via: int = 0) -> list[str]: ...
    def containers(self) -> int: ...
    def hostname(self, index: int) -> str: ...
    def kill(self, index: int) -> None: ...
    def answers(self, via: int) -> bool: ...
    # Of what manages the cluster, and of all the daemons of a machine (without what each container has beside it).
    def rss_mib(self, index: int) -> float: ...
    def node_rss_mib(self, index: int) -> float: ...
    def down(self) -> None: ...


def until(check: Callable[[], bool], limit: float = 120, step: float = 0.01) -> float | None:
    """Seconds until `check` holds; None when it did not within `limit`."""
    start = time.monotonic()
    while time.monotonic() - start < limit:
        if check():
            return time.monotonic() - start
        time.sleep(step)
    return None


def timed(what: Callable[[], object], *checks: Callable[[], bool]) -> float:
    """Seconds for `what` and then until every check holds. Raises TimeoutError."""
    start = time.monotonic()
    what()
    for check in checks:
        if until(check) is None:
            raise TimeoutError("the swarm did not get there within two minutes")
    return time.monotonic() - start


def day(swarm: Swarm, machines: int = 5) -> dict[str, float]:
    """Run the whole workload; the rows of the table in the README."""
    row: dict[str, float] = {}

    def runs(name: str, replicas: int, via: int = 0) -> Callable[[], bool]:
        return lambda: len(swarm.running(name, via)) == replicas

    try:
        swarm.up(machines)
        row["init"] = timed(swarm.init)
        joins = [timed(lambda i=index: swarm.join(i, i < MANAGERS)) for index in range(1, machines)]  # type: ignore[misc]
        row["join"] = statistics.median(joins)
        row["manager_rss_idle"] = swarm.rss_mib(0)
        row["node_rss_idle"] = swarm.node_rss_mib(0)
        ones = []
        for number in range(5):
            name = f"one{number}"
            ones.append(timed(lambda n=name: swarm.create(n, 1), runs(name, 1)))  # type: ignore[misc]
            swarm.remove(name)
        row["create_1"] = statistics.median(ones)
        until(lambda: swarm.containers() == 0)
        row["create_50"] = timed(lambda: swarm.create("many", 50), runs("many", 50))
        row["scale_100"] = timed(lambda: swarm.scale("many", 100), runs("many", 100))
        row["manager_rss_100"] = swarm.rss_mib(0)
        row["node_rss_100"] = swarm.node_rss_mib(0)
        row["remove_100"] = timed(lambda: swarm.remove("many"), lambda: swarm.containers() == 0)
        timed(lambda: swarm.create("roll", 20), runs("roll", 20))
        row["update_20"] = timed(
            lambda: swarm.set_environment("roll", "A=1"), lambda: swarm.update_completed("roll"), runs("roll", 20)
        )
        victim = machines - 1
        lost = swarm.hostname(victim)
        row["worker_kill"] = timed(
            lambda: swarm.kill(victim),
            lambda: sum(host != lost for host in swarm.running("roll")) == 20,
        )

        start = time.monotonic()
        swarm.kill(0)
        if until(lambda: swarm.answers(1), 60) is None:
            raise TimeoutError("no manager answered within a minute of the leader's death")
        row["leader_answer"] = time.monotonic() - start

        def there() -> bool:
            """An answer may have been lost on its way."""
            try:
                return bool(swarm.running("after", via=1))
            except Exception:  # noqa: BLE001 - as below
                return False

        def created() -> bool:
            try:
                swarm.create("after", 1, via=1)
                return True
            except Exception:  # noqa: BLE001 - each side has its own errors for "no leader yet"
                return there()

        if until(created, 60) is None or until(runs("after", 1, via=1), 60) is None:
            raise TimeoutError("no new task within a minute of the leader's death")
        row["leader_task"] = time.monotonic() - start
    finally:
        swarm.down()
    return row
