"""What tasks use, as `docker stats` shows it: rates from two rounds of counters, the newest figures of each node.

Percent of processor: 100 % is one processor in full.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flota.cli.output.human import decimal_size, natural, short_id
from flota.cli.output.tables import Column, print_rows
from flota.stacks.units import format_size
from flota.v1.tasks_pb2 import StatsRequest, StatsResponse, TaskStats

if TYPE_CHECKING:
    from flota.cli.session import Session

_COLUMNS = (
    Column("ID", "TASK ID"),
    Column("Name", "NAME"),
    Column("Node", "NODE"),
    Column("CPUPerc", "CPU %"),
    Column("MemUsage", "MEM USAGE / LIMIT"),
    Column("MemPerc", "MEM %"),
    Column("NetIO", "NET I/O"),
    Column("BlockIO", "BLOCK I/O"),
    Column("PIDs", "PIDS"),
)
_ROUND = 1.0
_NEW_SCREEN = "\x1b[H\x1b[J"


class Board:
    """The newest figures of each node's tasks, and how to print them."""

    def __init__(self, form: str | None = None, no_trunc: bool = False) -> None:
        self._form = form
        self._no_trunc = no_trunc
        self._nodes: dict[str, dict[str, TaskStats]] = {}
        self._before: dict[str, TaskStats] = {}
        self._names: dict[str, str] = {}
        self._warned: set[str] = set()

    def take(self, answer: StatsResponse) -> None:
        """A node's round: tasks that are not in it do not run there any longer."""
        for warning in answer.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                print(f"Warning: {warning}", file=sys.stderr, flush=True)
        self._before |= self._nodes.get(answer.node_id, {})
        self._nodes[answer.node_id] = {one.task_id: one for one in answer.tasks}

    def name_nodes(self, names: dict[str, str]) -> None:
        """Node ids to hostnames."""
        self._names = names

    def rows(self) -> list[dict[str, Any]]:
        """One for each task, by name."""
        figures = [one for tasks in self._nodes.values() for one in tasks.values()]
        return [self._row(one) for one in sorted(figures, key=lambda one: natural(one.name))]

    def show(self) -> None:
        """Print the rows."""
        print_rows(_COLUMNS, self.rows(), self._form)

    def _row(self, stats: TaskStats) -> dict[str, Any]:
        memory = stats.memory
        share = 100 * memory.used / memory.limit if memory.limit else 0.0
        received = sum(one.received_bytes for one in stats.networks)
        sent = sum(one.sent_bytes for one in stats.networks)
        read, written = sum(one.read_bytes for one in stats.blocks), sum(one.written_bytes for one in stats.blocks)
        name, _, task_id = stats.name.rpartition(".")
        return {
            "ID": short_id(stats.task_id, self._no_trunc),
            "Name": name if task_id == stats.task_id else stats.name,
            "Node": self._names.get(stats.node_id, stats.node_id),
            "CPUPerc": f"{cpu_percent(self._before.get(stats.task_id), stats):.2f}%",
            "MemUsage": f"{format_size(memory.used)} / {format_size(memory.limit)}",
            "MemPerc": f"{share:.2f}%",
            "NetIO": f"{decimal_size(received)} / {decimal_size(sent)}",
            "BlockIO": f"{decimal_size(read)} / {decimal_size(written)}",
            "PIDs": stats.pids,
        }


def cpu_percent(before: TaskStats | None, now: TaskStats) -> float:
    """Of one processor, between two rounds; 0 without an earlier one."""
    if before is None:
        return 0.0
    machine = now.cpu.machine - before.cpu.machine
    if machine <= 0 or now.cpu.total < before.cpu.total:
        return 0.0
    return 100 * (now.cpu.total - before.cpu.total) / machine * now.cpu.processors


async def _hostnames(session: Session) -> dict[str, str]:
    """None on a worker, whose own tasks' node goes without saying."""
    import grpc

    from flota.cli.output.tasks import hostnames
    from flota.v1.control_pb2 import ListNodesRequest

    try:
        return hostnames((await session.control.ListNodes(ListNodesRequest())).nodes)
    except grpc.aio.AioRpcError:
        return {}


async def once(session: Session, tasks: Sequence[str], board: Board) -> None:
    """Two rounds, a second apart, printed once."""
    board.name_nodes(await _hostnames(session))
    for number in range(2):
        if number:
            await asyncio.sleep(_ROUND)
        async for answer in session.tasks.Stats(StatsRequest(tasks=tasks)):
            board.take(answer)
    board.show()


async def watch(session: Session, tasks: Sequence[str], board: Board, *, live: bool) -> None:
    """Print again and again, until interrupted or until none of the named tasks is left."""
    board.name_nodes(await _hostnames(session))
    request = StatsRequest(tasks=tasks, stream=True)
    request.interval.FromMilliseconds(int(_ROUND * 1000))
    showing = asyncio.create_task(_show(board, live))
    try:
        async for answer in session.tasks.Stats(request):
            board.take(answer)
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
    board.show()


async def _show(board: Board, live: bool) -> None:
    while True:
        await asyncio.sleep(_ROUND)
        if live:
            click.echo(_NEW_SCREEN, nl=False)
        board.show()
        sys.stdout.flush()
