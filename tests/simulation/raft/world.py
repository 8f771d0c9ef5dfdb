"""The world around simulated managers: time, network, faults, clients, and what must never happen.

Everything follows from one seed. `World(seed, size, directory).run()` lives through a stormy time, then a calm one in
which everybody must agree again. At every step invariants.py looks; what clients saw is checked for linearizability
(history.py).
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

from flota.manager.raft import membership
from flota.manager.raft.core import Raft
from flota.v1.raft_pb2 import ConfChange, Member, RaftMessage
from tests.simulation.raft.history import INFINITY, Operation, check
from tests.simulation.raft.invariants import Invariants
from tests.simulation.raft.machine import ELECTION_TICKS, LEASE_TICKS, Machine

STORM, CALM = 12.0, 15.0
CLIENTS, KEYS = 4, ("x", "y")
# A client that has no answer by then never learns how its call ended.
PATIENCE = 1.0


class Stuck(AssertionError):
    """The faults are over, and the managers do not agree."""


class World:
    """See the module's docstring. `core_class` is Raft, or one with a seeded bug."""

    def __init__(self, seed: int, size: int, directory: Path, core_class: type[Raft] = Raft) -> None:
        self.random = Random(seed)
        self.seed, self.core_class = seed, core_class
        self.now, self.tick = 0.0, 0.05
        # 1: an entry a message, so that a leader can fail between any two.
        self.message_bytes = self.random.choice((1, 1, 400))
        # Leaders that fail just after their election: the dissertation's figure 3.7 is made of them.
        self._short_reigns = self.random.random() < 0.4
        # Some worlds serve reads by leases, some pass proposals on.
        self.leases, self.forwarding = seed % 4 == 3, seed % 3 == 1
        # Of the long soaks: faults that only befall who leads.
        self._hard_on_leaders = seed >= 500 and seed % 4 == 2
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._directory = directory
        self.machines: dict[int, Machine] = {}
        self.log: deque[str] = deque(maxlen=400)
        self.history: list[Operation] = []
        self._proposals = itertools.count(1)
        self._calm = False
        self._blocked: set[tuple[int, int]] = set()
        self._loss = self._duplication = 0.0
        self._delay = (0.001, 0.01)
        self._slow_disks: set[int] = set()
        self.invariants = Invariants(self.machines, self._on_election)
        for id in range(1, size + 1):
            self._add_machine(id).bootstrap(list(range(1, size + 1)))

    def _add_machine(self, id: int) -> Machine:
        machine = self.machines[id] = Machine(id, self._directory / str(id), self)
        return machine

    # Time.

    def after(self, delay: float, what: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now + delay, next(self._order), what))

    def _live_until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = end

    def random_for(self, id: int) -> Random:
        """Randomness of one life of a machine."""
        return Random(self.random.getrandbits(32) ^ id)

    def trace(self, line: str) -> None:
        """Remember what happened, for whoever replays a failure."""
        self.log.append(f"{self.now:8.3f}  {line}")

    # A life.

    def run(self) -> None:
        """Raises AssertionError when something happened that never may."""
        for machine in self.machines.values():
            machine.start()
        for client in range(CLIENTS):
            self.after(0.5 + client * 0.01, lambda client=client: self._call(client))  # type: ignore[misc]
        self.after(1.0, self._fault)
        self._live_until(STORM)
        self._end_of_storm()
        self._live_until(STORM + CALM)
        self._check_agreement()
        check(self.history)

    def _end_of_storm(self) -> None:
        self.trace("the storm is over")
        self._calm = True
        self._blocked.clear()
        self._slow_disks.clear()
        self._loss = self._duplication = 0.0
        self._delay = (0.001, 0.01)
        for machine in self.machines.values():
            machine.pace, machine.stalled_until = 1.0, 0.0
            if not machine.up and not machine.removed:
                machine.start()
        self.after(CALM / 2, lambda: self._write_until_done())

    def _write_until_done(self) -> None:
        """In the calm a write must get through."""
        self._settled = False

        def attempt() -> None:
            if self._settled:
                return
            leader = self.leader()
            if leader is not None:
                operation = Operation("write", KEYS[0], self.now, value=next(self._proposals))
                self.history.append(operation)

                def done(result: object) -> None:
                    operation.returned, operation.result = self.now, None
                    self._settled = True

                if not leader.propose(next(self._proposals), _data(operation), done):
                    operation.failed = True
            self.after(0.5, attempt)

        attempt()

    def _check_agreement(self) -> None:
        leader = self.leader()
        if leader is None or not getattr(self, "_settled", False):
            raise Stuck("no write gets through although the faults are over")
        members = membership.everybody(leader.core.conf)
        for id in members:
            machine = self.machines[id]
            if not machine.up or machine.core.log.applied != leader.core.log.applied:
                raise Stuck(f"{id} has not caught up with the leader {leader.id}")
            assert machine.registers.values == leader.registers.values, f"{id} and {leader.id} hold different values"

    def leader(self) -> Machine | None:
        """The leader of the newest term, if there is one up."""
        leading = [machine for machine in self.machines.values() if machine.leads]
        return max(leading, key=lambda machine: machine.core.term, default=None)

    # Network and disks.

    def send(self, sender: Machine, message: RaftMessage, snapshot: bytes | None) -> None:
        """Take a message to its receiver, late, twice, or not at all."""
        wire = message.SerializeToString()
        to: int = message.to
        life = sender.life
        # A stream delivers nothing twice; other messages may be sent twice, a proposal is not.
        once = message.type == RaftMessage.TYPE_PROPOSE
        copies = 2 if self.random.random() < self._duplication and not once else 1
        for _ in range(copies):
            lost = self.random.random() < self._loss
            delay = self.random.uniform(*self._delay) * (3 if snapshot is not None else 1)

            def arrive(lost: bool = lost) -> None:
                receiver = self.machines.get(to)
                gone = receiver is None or not receiver.up or (sender.id, to) in self._blocked or lost
                if snapshot is not None and sender.life == life and sender.up:
                    sender.core.report_snapshot(to, not gone)
                if gone:
                    if sender.life == life and sender.up and message.type == RaftMessage.TYPE_APPEND:
                        sender.core.report_unreachable(to)
                    return
                assert receiver is not None
                if sender.id in receiver.core.conf.removed:
                    self._tell_removed(sender)
                elif self.now < receiver.stalled_until:
                    self.after(receiver.stalled_until - self.now, arrive)
                else:
                    receiver.receive(RaftMessage.FromString(wire), snapshot)

            self.after(delay, arrive)

    def _tell_removed(self, machine: Machine) -> None:
        if machine.up:
            self.trace(f"{machine.id} learns that it was removed, and stops")
            machine.removed = True
            machine.crash()

    def disk_delay(self, id: int) -> float:
        """Seconds a sync takes."""
        if id in self._slow_disks:
            return self.random.uniform(0.05, 0.6)
        return self.random.choice((0.0005, 0.001, 0.004))

    # Faults.

    def _fault(self) -> None:
        if self._calm:
            return
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._partition, 4), (self._heal, 4), (self._crash, 4), (self._restart, 6), (self._weather, 3),
            (self._stall, 2), (self._clocks, 1), (self._disks, 1), (self._transfer, 2), (self._membership, 4),
            (self._rivals, 2), (self._jump, 1), (self._leasing, 1 if self.leases else 0),
            (self._leaders_disk, 3 if self._hard_on_leaders else 0), (self._deaf, 3 if self._hard_on_leaders else 0),
        ]  # fmt: skip
        self.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()
        self.after(self.random.uniform(0.05, 0.7), self._fault)

    def _partition(self) -> None:
        ids = list(self.machines)
        some = set(self.random.sample(ids, self.random.randint(1, len(ids) - 1)))
        one_way = self.random.random() < 0.4
        self._blocked = {(a, b) for a in ids for b in ids if (a in some) != (b in some) and (not one_way or a in some)}
        self.trace(f"cut {'from' if one_way else 'between'} {sorted(some)} and the others")

    def _heal(self) -> None:
        self._blocked.clear()
        self.trace("no cut")

    def _crash(self) -> None:
        up = [machine for machine in self.machines.values() if machine.up]
        if up:
            leader = self.leader()
            target = leader if leader is not None and self.random.random() < 0.5 else self.random.choice(up)
            target.crash()

    def _on_election(self, machine: Machine) -> None:
        self.trace(f"{machine.id} leads in term {machine.core.term}")
        if self._short_reigns and not self._calm and self.random.random() < 0.6:
            self._end_reign(machine)

    def _end_reign(self, machine: Machine) -> None:
        """Fail in the middle of the first appends, and come back soon."""
        life = machine.life

        def back() -> None:
            if not machine.up and not machine.removed:
                machine.start()

        def fail() -> None:
            if machine.up and machine.life == life and not self._calm:
                machine.crash()
                self.after(self.random.uniform(0.1, 0.8), back)

        self.after(self.random.uniform(0.001, 0.05), fail)

    def _restart(self) -> None:
        down = [machine for machine in self.machines.values() if not machine.up and not machine.removed]
        if down:
            self.random.choice(down).start()

    def _weather(self) -> None:
        self._loss = self.random.choice((0.0, 0.0, 0.05, 0.3))
        self._duplication = self.random.choice((0.0, 0.1, 0.3))
        self._delay = self.random.choice(((0.001, 0.01), (0.001, 0.2), (0.02, 0.1), (0.0, 0.8)))
        self.trace(f"loss {self._loss}, duplication {self._duplication}, delay {self._delay}")

    def _stall(self) -> None:
        machine = self.random.choice(list(self.machines.values()))
        machine.stalled_until = self.now + self.random.uniform(0.2, 2.0)
        self.trace(f"{machine.id} stalls until {machine.stalled_until:.3f}")

    def _clocks(self) -> None:
        machine = self.random.choice(list(self.machines.values()))
        # Leases trust that nobody's clock runs much faster.
        machine.pace = self.random.choice((0.9, 1.0, 1.5, 3.0) if self.leases else (0.3, 0.7, 1.0, 1.5, 3.0))
        self.trace(f"{machine.id}'s ticks last {machine.pace}")

    def _jump(self) -> None:
        up = [machine for machine in self.machines.values() if machine.up]
        if up:
            machine, ticks = self.random.choice(up), self.random.randint(2, 30)
            self.trace(f"{machine.id}'s clock jumps by {ticks} ticks")
            machine.jump(ticks)

    def _leasing(self) -> None:
        """The setting is changed, and arrives here and there at different times."""
        machine = self.random.choice(list(self.machines.values()))
        if machine.up:
            machine.core.lease_ticks = self.random.choice((0, LEASE_TICKS))
            self.trace(f"{machine.id} has a lease of {machine.core.lease_ticks} ticks")

    def _disks(self) -> None:
        self._slow_disks = {id for id in self.machines if self.random.random() < 0.3}
        self.trace(f"slow disks: {sorted(self._slow_disks)}")

    def _leaders_disk(self) -> None:
        """Only who leads has a slow disk: followers may hold entries that it does not."""
        leader = self.leader()
        if leader is not None:
            self._slow_disks = {leader.id}
            self.trace(f"only the leader {leader.id} has a slow disk")

    def _deaf(self) -> None:
        """A leader is heard and hears nobody: it must give up, or nothing is decided any more (check-quorum)."""
        leader = self.leader()
        if leader is None:
            return
        cut = self._blocked = {(id, leader.id) for id in self.machines if id != leader.id}
        self.trace(f"the leader {leader.id} hears nobody")
        life, term = leader.life, leader.core.term

        def look() -> None:
            same = leader.up and leader.life == life and leader.core.term == term and self._blocked is cut and cut
            if same and self.now >= leader.stalled_until and len(leader.core.conf.voters) > 1:
                assert not leader.leads, f"{leader.id} hears nobody, and leads on"

        # Up to two checks, and what was on its way.
        self.after(2 * ELECTION_TICKS * self.tick * max(leader.pace, 1.0) + 1.0, look)

    def _transfer(self) -> None:
        leader = self.leader()
        if leader is not None:
            others = [id for id in leader.core.conf.voters if id != leader.id]
            if others:
                to = self.random.choice(others)
                leader.core.transfer_leadership(to)
                leader.pump()
                self.trace(f"{leader.id} is to hand leadership to {to}")

    def _rivals(self) -> None:
        """Two transfers of leadership after one another: two members stand for election at once."""
        leader = self.leader()
        if leader is None:
            return
        leader.core._lease_over = True
        for id in self.random.sample(list(leader.core.conf.voters), min(2, len(leader.core.conf.voters))):
            message = RaftMessage(type=RaftMessage.TYPE_TIMEOUT_NOW, to=id, term=leader.core.term)
            setattr(message, "from", leader.id)
            self.send(leader, message, None)
        self.trace(f"{leader.id} handed leadership to two members")

    def _membership(self) -> None:
        leader = self.leader()
        if leader is None:
            return
        conf = leader.core.conf
        kinds = ConfChange
        steps: list[ConfChange.Change] = []
        learners, voters = list(conf.learners), list(conf.voters)
        choice = self.random.random()
        if learners and choice < 0.6:
            steps.append(kinds.Change(type=kinds.TYPE_ADD_VOTER, member=Member(raft_id=self.random.choice(learners))))
        elif len(voters) > 3 and choice < 0.8:
            steps.append(kinds.Change(type=kinds.TYPE_REMOVE, member=Member(raft_id=self.random.choice(voters))))
        elif len(self.machines) < 10:
            # One learner, or, through a joint configuration, some voters that replace a minority of the old ones.
            # (Were all replaced at once, the old ones could stop before the new ones know that they may decide alone.)
            count = self.random.randint(1, max(1, (len(voters) - 1) // 2)) if choice > 0.85 else 0
            kind = kinds.TYPE_ADD_VOTER if count else kinds.TYPE_ADD_LEARNER
            for _ in range(count or 1):
                new = max(self.machines) + 1
                self._add_machine(new).start()
                steps.append(kinds.Change(type=kind, member=Member(raft_id=new)))
            for id in self.random.sample(voters, min(count, len(voters))):
                steps.append(kinds.Change(type=kinds.TYPE_REMOVE, member=Member(raft_id=id)))
        if steps:
            taken = leader.change(ConfChange(changes=steps))
            told = ", ".join(f"{kinds.Type.Name(step.type)[5:].lower()} {step.member.raft_id}" for step in steps)
            self.trace(f"{leader.id} is asked to {told}: {'taken' if taken else 'refused'}")

    # Clients.

    def _call(self, client: int) -> None:
        if self._calm:
            return
        up = [machine for machine in self.machines.values() if machine.up]
        leader = self.leader()
        target = leader if leader is not None and self.random.random() < 0.8 else None
        target = target or (self.random.choice(up) if up else None)
        kind = self.random.choice(("write", "cas", "read"))
        operation = Operation(kind, self.random.choice(KEYS), self.now)
        over = False

        def next_call() -> None:
            nonlocal over
            if not over:
                over = True
                self.after(self.random.uniform(0.0, 0.3), lambda: self._call(client))

        def done(result: object) -> None:
            if not over:
                assert operation.returned == INFINITY
                operation.returned = self.now
                operation.result = result  # type: ignore[assignment]
                next_call()

        number = next(self._proposals)
        if kind != "read":
            operation.value = number
            operation.expected = self.random.choice([0, *(one.value for one in self.history[-4:])])
        self.history.append(operation)
        taken = False
        if target is not None and self.now >= target.stalled_until:
            if kind == "read":
                context = b"%d" % number
                taken = target.read(context, lambda values: done(values.get(operation.key, 0)))
            else:
                taken = target.propose(number, _data(operation), done)
        if not taken:
            operation.failed = True
            next_call()
        else:
            self.after(PATIENCE, next_call)


def _data(operation: Operation) -> bytes:
    return json.dumps(
        {"kind": operation.kind, "key": operation.key, "value": operation.value, "expected": operation.expected}
    ).encode()
