"""What is attached to the report of a test that failed: what daemons said meanwhile, what machines and tasks are up to.

A test that fails once in a thousand runs can only be understood from its report: its machines are gone afterwards.
"""

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc

from flota.node.lab import Lab, LabError
from flota.v1.control_pb2 import ListTasksRequest
from flota.v1.types_pb2 import NodeState, TaskState
from tests.cluster.labs import PREFIX
from tests.cluster.swarm import Swarm

# The last lines of each log, and the last bytes of each line: some tell of whole specs.
LINES = 40
WIDTH = 400

_began: dict[Path, int] = {}


def begin() -> None:
    """A test begins: what logs have by now is not about it."""
    _began.clear()
    for lab in _labs():
        for log in _logs_of(lab):
            _began[log] = log.stat().st_size


def gathered(directory: Path | None) -> Iterator[tuple[str, str]]:
    """Title and text of each thing there is to show. `directory`: the test's own, whose daemons' logs are in it."""
    for lab in _labs():
        yield f"lab {lab.name}", "\n".join(_states(lab))
        for log in _logs_of(lab):
            if said := _said(log):
                yield f"lab {lab.name}: {log.parent.name} said", said
    for log in sorted({*directory.glob("**/log"), *directory.glob("**/*.log")}) if directory else ():
        if log.is_file() and (said := _said(log)):
            yield f"{log.relative_to(directory) if directory else log} says", said
    yield (
        "the machine",
        f"{datetime.now(UTC):%H:%M:%S} UTC, load {' '.join(f'{load:.1f}' for load in os.getloadavg())}\n{_busiest()}",
    )


def _labs() -> list[Lab]:
    return [Lab.find(name) for name in Lab.names() if name.startswith(PREFIX)]


def _logs_of(lab: Lab) -> list[Path]:
    return [log for node in lab.nodes.values() if (log := node.disk / "log").exists()]


def _said(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(_began.get(log, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    shown = [line if len(line) <= WIDTH else f"{line[: WIDTH // 2]} … {line[-WIDTH // 2 :]}" for line in lines]
    return "\n".join(shown[-LINES:])


def _states(lab: Lab) -> Iterator[str]:
    """The nodes, and the tasks that are not where they ought to be, as the first manager that answers has them."""
    up = [node.name for node in lab.nodes.values() if node.running]
    yield f"up: {', '.join(up) or 'none'} of {', '.join(lab.nodes) or 'none'}"
    with Swarm(lab) as swarm:
        for via in up:
            try:
                nodes = swarm.nodes(via, limit=5)
                tasks = swarm.control(via).ListTasks(ListTasksRequest(), timeout=5).tasks
            except (grpc.RpcError, LabError) as error:
                yield f"{via} has no answer: {error.details() if isinstance(error, grpc.Call) else error}"
                continue
            for name, node in nodes.items():
                yield f"{name}: {NodeState.Name(node.status.state)} {node.status.message}"
            names = {node.id: name for name, node in nodes.items()}
            for task in tasks:
                if task.status.state != task.desired_state:
                    yield (
                        f"task {task.service_annotations.name}.{task.slot} {task.id} on {names.get(task.node_id, '–')}:"
                        f" {TaskState.Name(task.status.state)}, to be {TaskState.Name(task.desired_state)}"
                        f" {task.status.message} {task.status.error}"
                    )
            return


def _busiest() -> str:
    done = subprocess.run(["ps", "-eo", "pcpu,etimes,stat,args", "--sort=-pcpu"], capture_output=True, text=True)
    return "\n".join(line[:WIDTH] for line in done.stdout.splitlines()[:8])
