"""The daemon of one machine: owns its directories, its socket and its two children, from start to signal.

It never looks into the cluster's state: what a node is stands in `node.Node`, how a child lives in `children.Child`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class DaemonOptions:
    """What the person who starts the daemon decides. Addresses are host:port; empty = none."""

    state_directory: Path = Path("/var/lib/flota")
    run_directory: Path = Path("/run/flota")
    # Containers live in control groups below this one.
    cgroup_parent: str = "/flota"
    manager_metrics: str = "0.0.0.0:9323"
    worker_metrics: str = "0.0.0.0:9324"
    engine_labels: Mapping[str, str] = field(default_factory=dict)
    # "gpu=2" or "gpu=UUID1"
    generic_resources: Sequence[str] = ()


def run(options: DaemonOptions) -> int:
    """Run the daemon until SIGTERM or SIGINT; gives the exit status. A refusal to start is one line on stderr."""
    raise NotImplementedError
