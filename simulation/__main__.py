"""`python -m flota.simulation`: what a plan would do on so many nodes, and what becomes of it when some fail."""

import argparse
import json
import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

from flota.simulation.cluster import SimulatedCluster
from flota.simulation.fleet import Pace
from flota.simulation.report import Phase, in_words, look
from flota.simulation.virtual_time import run
from flota.stacks.compose.loading import load, project_folder, read_source
from flota.stacks.errors import BadValue, ComposeError
from flota.stacks.translation.stack import Stack, translate
from flota.stacks.units import NANO, parse_duration, parse_size
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import TaskState

MOST_NODES = 20_000
# A wrong command line, as of every other command.
WRONG = 125


class Refused(Exception):
    """Bad input, in one line."""


def main(argv: list[str] | None = None) -> int:
    """Run the scenario and print it; 1 when tasks are left that found no node, 125 for bad input."""
    try:
        arguments = _read(argv)
        stack = _stack(arguments.services) if arguments.services else None
        said = _listen()
        phases, wall = _simulate(arguments, stack)
    except (Refused, ComposeError) as error:
        print(f"flota simulate: {error}", file=sys.stderr)
        return WRONG
    except BadValue as error:
        print(f"flota simulate: {error.of('value')}", file=sys.stderr)
        return WRONG
    if arguments.json:
        print(json.dumps([phase.as_json() for phase in phases]))
    else:
        print("\n\n".join(map(in_words, phases)))
        for warning in said:
            print(f"\nwarning: {warning}")
        print(f"\n(simulated in {wall:.1f} s; times above are virtual)")
    return 1 if any(phase.waiting for phase in phases) else 0


def _read(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flota simulate")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--cpus", type=float, default=8)
    parser.add_argument("--memory", default="16g")
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--generic-resource", action="append", default=[])
    parser.add_argument("--services", action="append", default=[])
    parser.add_argument("--tasks", type=int, default=0)
    parser.add_argument("--fail", default="")
    parser.add_argument("--back", action="store_true")
    parser.add_argument("--start-time", default="1500ms")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.nodes <= MOST_NODES:
        raise Refused(f"invalid --nodes {arguments.nodes}: 1 to {MOST_NODES} are allowed")
    if arguments.cpus <= 0:
        raise Refused(f"invalid --cpus {arguments.cpus:g}: more than 0 is needed")
    if not arguments.services and arguments.tasks < 1:
        raise Refused("nothing to run: give --services FILE (a Compose file) or --tasks N")
    return arguments


def _stack(files: list[str]) -> Stack:
    sources = [read_source(file) for file in files]
    project = load(sources, project_folder(files[0]), os.environ, name="")
    return translate(project, project.name or Path(files[0]).resolve().parent.name or "plan")


def _listen() -> dict[str, None]:
    """What managers would log as warnings, each once."""
    said: dict[str, None] = {}

    def hear(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if method not in ("debug", "info"):
            said[f"{event.get('event')}: {event.get('reason', '')}"] = None
        raise structlog.DropEvent

    structlog.configure(processors=[hear])
    return said


def _count(text: str, nodes: int) -> int:
    """10% of the nodes, or so many."""
    share = text.removesuffix("%")
    try:
        value = float(share) / 100 * nodes if share != text else float(int(text))
    except ValueError:
        value = -1
    if not 0 <= value <= nodes:
        raise Refused(f"invalid --fail {text!r}: a share such as 10% is needed, or a number up to {nodes}")
    return round(value)


def _labels(texts: list[str]) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not key or not equals or not all(values.split(",")):
            raise Refused(f"invalid --label {text!r}: KEY=VALUE[,VALUE…] is needed; nodes get one after the other")
        labels[key] = values.split(",")
    return labels


def _generic(texts: list[str]) -> dict[str, int]:
    generic: dict[str, int] = {}
    for text in texts:
        kind, _, count = text.partition("=")
        if not kind or not count.isdecimal():
            raise Refused(f"invalid --generic-resource {text!r}: KIND=NUMBER is needed; each node has so many")
        generic[kind] = int(count)
    return generic


def _simulate(arguments: argparse.Namespace, stack: Stack | None) -> tuple[list[Phase], float]:
    labels, failing = _labels(arguments.label), _count(arguments.fail, arguments.nodes) if arguments.fail else 0
    memory, generic = parse_size(arguments.memory), _generic(arguments.generic_resource)
    start = parse_duration(arguments.start_time) / NANO
    specs = list(stack.services) if stack is not None else []
    if arguments.tasks:
        spec = ServiceSpec()
        spec.annotations.name = "tasks"
        spec.task.container.image = "tasks"
        spec.replicated.replicas = arguments.tasks
        specs.append(spec)

    async def scenario() -> list[Phase]:
        cluster = SimulatedCluster(arguments.seed, Pace(prepare=start * 0.7, start=start * 0.3))
        async with cluster.alive():
            nodes = await cluster.add_nodes(arguments.nodes, arguments.cpus, memory, labels, generic)
            await cluster.create(specs, stack.networks if stack is not None else ())
            phases = [look("deploy", cluster, await cluster.settle())]
            if failing:
                dead = sorted(cluster.rng.sample(nodes, failing))
                lost = sum(
                    1
                    for node_id in dead
                    for task in cluster.store.tasks.by("node", node_id)
                    if task.status.state == TaskState.TASK_STATE_RUNNING
                )
                began = cluster.clock.now()
                await cluster.fail(dead)
                noticed = cluster.clock.now() - began
                seconds, rest = await cluster.settle()
                phases.append(look(f"{failing} nodes fail", cluster, (noticed + seconds, rest), lost))
                if arguments.back:
                    await cluster.revive(dead)
                    phases.append(look("they come back", cluster, await cluster.settle()))
        return phases

    began = time.perf_counter()
    phases = run(scenario())
    return phases, time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
