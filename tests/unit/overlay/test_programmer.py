"""Rounds that bring the kernel after what is wanted: when they run, what waits for them, what is tried again.

On virtual time, with stand-ins for the kernel's parts that only write down what they were asked.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from flota.overlay.errors import KernelRefused
from flota.overlay.model import Model
from flota.overlay.programmer import Programmer
from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.objects_pb2 import Network
from tests.simulation.virtual_time import run
from tests.unit.overlay.test_wanted import Here, a_network, a_peer, a_task


class Parts:
    """Kernel thread, segments, encryption, balancer and publisher in one."""

    def __init__(self) -> None:
        self.done: list[str] = []
        # What is refused, how often.
        self.refuses: dict[str, int] = {}
        # What a round waits for before it asks the kernel.
        self.gate = asyncio.Event()
        self.gate.set()
        self.put_off: set[str] = set()

    def _do(self, what: str) -> None:
        if self.refuses.get(what, 0):
            self.refuses[what] -= 1
            raise KernelRefused(what, 16, "busy")
        self.done.append(what)

    # KernelThread.
    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        await self.gate.wait()
        return function(*arguments)

    # Segments.
    def hold(self, networks: Iterable[str], forwardings: object) -> None:
        self._do(f"hold {' '.join(networks)}".strip())

    def program(self, network_id: str, forwarding: object) -> None:
        self._do(f"program {network_id}")

    def ways_in(self) -> str:
        return "ways"

    # Encryption.
    async def follow(self, dirty: set[str], in_use: Iterable[str]) -> set[str]:
        return set()

    # Balancer.
    def may_wait(self, task_id: str, wanted: object) -> bool:
        return task_id in self.put_off

    async def update(self, first: Any, *rest: Any) -> None:
        # The publisher's begins with all ports, the balancer's with a task.
        self._do(f"balance {first}" if isinstance(first, str) else f"publish {' '.join(first)}")

    # Publisher.
    def is_idle(self) -> bool:
        return True


class Machine:
    """A programmer that runs, on a node with one task on `app`."""

    def __init__(self) -> None:
        self.here = Here(a_network("app"), a_peer("app", "t2", 2, "10.0.1.6/24"))
        self.here.tasks["t1"] = a_task("t1", app="10.0.1.5/24")
        self.model: Model = self.here.model
        self.parts = Parts()
        wanted = self.here.wanted
        parts: Any = self.parts
        self.programmer = Programmer(wanted, parts, parts, parts, parts, parts)

    def spoken(self) -> None:
        """A manager has."""
        self.model.complete = True

    async def __aenter__(self) -> "Machine":
        self._running = asyncio.create_task(self.programmer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def touch(self, *networks: str) -> list[str]:
        """What was done because of it."""
        self.parts.done.clear()
        self.programmer.touch(networks)
        await self.programmer.settled()
        return list(self.parts.done)


def test_until_a_manager_has_spoken_the_kernel_stays_as_it_is() -> None:
    async def story() -> None:
        async with Machine() as machine:
            assert await machine.touch("app") == []
            machine.spoken()
            assert await machine.touch("app") == ["program app", "balance t1"]

    run(story())


def test_only_what_was_touched_and_is_in_use_here_is_done() -> None:
    async def story() -> None:
        async with Machine() as machine:
            machine.spoken()
            machine.here.told(a_network("other"))
            assert await machine.touch("other") == []
            machine.here.tasks["t3"] = a_task("t3", other="10.0.2.5/24")
            assert await machine.touch("other") == ["program other", "balance t3"]

    run(story())


def test_the_ingress_network_is_held_while_there_is_one_and_another_takes_its_place() -> None:
    async def story() -> None:
        async with Machine() as machine:
            machine.spoken()
            machine.here.told(a_network("mesh", ingress=True))
            assert await machine.touch("mesh") == ["hold mesh", "program mesh", "publish mesh"]
            assert await machine.touch("mesh") == ["program mesh", "publish mesh"]
            gone = AssignmentChange(action=AssignmentChange.ACTION_REMOVE, network=Network(id="mesh"))
            machine.model.apply([gone], complete=False)
            machine.here.told(a_network("next", ingress=True))
            assert await machine.touch("mesh", "next") == ["hold next", "program next", "publish next"]
            await machine.programmer.hold_none()
            assert machine.parts.done[-1] == "hold"

    run(story())


def test_what_the_kernel_refuses_is_tried_again_a_second_later_and_nothing_else_waits() -> None:
    async def story() -> None:
        async with Machine() as machine:
            machine.spoken()
            machine.here.told(a_network("mesh", ingress=True))
            for refused, others in (
                ("hold mesh", ["program mesh", "balance t1", "publish mesh"]),
                ("program app", ["program mesh", "balance t1", "publish mesh"]),
                ("balance t1", ["program app", "program mesh", "publish mesh"]),
                ("publish mesh", ["program app", "program mesh", "balance t1"]),
            ):
                machine.parts.refuses = {refused: 2}
                done = await machine.touch("app", "mesh")
                assert refused not in done
                assert set(others) <= set(done), refused
                machine.parts.done.clear()
                await asyncio.sleep(1.5)
                assert machine.parts.refuses == {refused: 0}, "tried again"
                assert refused not in machine.parts.done
                await asyncio.sleep(1)
                assert refused in machine.parts.done, "and again, until it is done"

    run(story())


def test_in_force_waits_for_the_round_that_is_under_way_and_for_what_came_meanwhile() -> None:
    async def story() -> None:
        async with Machine() as machine:
            machine.spoken()
            machine.parts.gate.clear()
            machine.programmer.touch(["app"])
            await asyncio.sleep(1)
            machine.programmer.touch(["app"])
            waits = asyncio.create_task(machine.programmer.in_force())
            await asyncio.sleep(1)
            assert not waits.done()
            machine.parts.gate.set()
            await waits
            assert machine.parts.done.count("program app") == 2, "the second round was over as well"
            await machine.programmer.in_force()

    run(story())


def test_in_force_does_not_wait_for_what_may_wait_but_settled_does() -> None:
    async def story() -> None:
        async with Machine() as machine:
            machine.spoken()
            machine.parts.put_off = {"t1"}
            machine.programmer.touch(["app"])
            await machine.programmer.in_force()
            assert machine.parts.done == ["program app"]
            machine.parts.put_off.clear()
            await machine.programmer.settled()
            assert machine.parts.done[-1] == "balance t1", "its moment came"

    run(story())


def test_a_task_that_was_detached_meanwhile_is_no_refusal() -> None:
    async def story() -> None:
        async with Machine() as machine:
            machine.spoken()
            machine.here.tasks["t9"] = a_task("t9", app="10.0.1.9/24")
            machine.parts.refuses = {"balance t1": 1}
            machine.parts.gate.clear()
            machine.programmer.touch(["app"])
            await asyncio.sleep(0)
            update = machine.parts.update

            async def detached(first: Any, *rest: Any) -> None:
                machine.here.tasks.pop("t1", None)
                await update(first, *rest)

            machine.parts.update = detached  # type: ignore[method-assign]
            machine.parts.gate.set()
            await machine.programmer.settled()
            await asyncio.sleep(3)
            assert machine.parts.done == ["program app", "balance t9"], "it is not tried again"

    run(story())


def test_published_ports_do_not_wait_for_virtual_addresses() -> None:
    async def story() -> None:
        async with Machine() as machine:
            machine.spoken()
            machine.here.told(a_network("mesh", ingress=True))
            update, go_on = machine.parts.update, asyncio.Event()

            async def slow(first: Any, *rest: Any) -> None:
                if first == "t1":
                    await go_on.wait()
                await update(first, *rest)

            machine.parts.update = slow  # type: ignore[method-assign]
            machine.programmer.touch(["app", "mesh"])
            await asyncio.sleep(1)
            assert "publish mesh" in machine.parts.done
            assert "balance t1" not in machine.parts.done
            in_force = asyncio.create_task(machine.programmer.in_force())
            await asyncio.sleep(1)
            assert not in_force.done(), "a round is over with both"
            go_on.set()
            await in_force
            assert "balance t1" in machine.parts.done

    run(story())
