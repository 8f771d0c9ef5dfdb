"""`python -m flota.node`: what `flota daemon` becomes. Reads the flags, runs the daemon."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flota.node.daemon import DaemonOptions, run


def main(argv: Sequence[str] | None = None) -> int:
    """Give the exit status."""
    standard = DaemonOptions()
    parser = argparse.ArgumentParser(prog="flota daemon", allow_abbrev=False)
    parser.add_argument("--state-dir", type=Path, default=standard.state_directory)
    parser.add_argument("--run-dir", type=Path, default=standard.run_directory)
    parser.add_argument("--cgroup-parent", default=standard.cgroup_parent)
    parser.add_argument("--manager-metrics", default=standard.manager_metrics)
    parser.add_argument("--worker-metrics", default=standard.worker_metrics)
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--generic-resource", action="append", default=[])
    parser.add_argument("--insecure-registry", action="append", default=[])
    parser.add_argument("--docker-listen", default=standard.docker_listen)
    parser.add_argument("--docker-socket", type=Path, default=standard.docker_socket)
    parser.add_argument("--docker-tls-dir", type=Path, default=standard.docker_tls_directory)
    parser.add_argument("--credential-helper", action="append", default=[])
    parser.add_argument("--image-max-age", type=float, default=standard.image_max_age)
    parser.add_argument("--image-disk", type=_percents, default=standard.image_disk)
    given = parser.parse_args(argv)
    helpers: list[str] = given.credential_helper
    return run(
        DaemonOptions(
            state_directory=given.state_dir.absolute(),
            run_directory=given.run_dir.absolute(),
            cgroup_parent=given.cgroup_parent,
            manager_metrics=given.manager_metrics,
            worker_metrics=given.worker_metrics,
            engine_labels={key: value for key, _, value in (label.partition("=") for label in given.label)},
            generic_resources=tuple(given.generic_resource),
            insecure_registries=tuple(given.insecure_registry),
            docker_listen=given.docker_listen,
            docker_socket=given.docker_socket,
            docker_tls_directory=given.docker_tls_dir.absolute(),
            credential_helpers={host: name for host, _, name in (one.rpartition("=") for one in helpers)},
            image_max_age=given.image_max_age,
            image_disk=given.image_disk,
        )
    )


def _percents(text: str) -> tuple[int, int]:
    """HIGH:LOW, or HIGH for both. What is allowed is checked with the other options."""
    high, _, low = text.partition(":")
    try:
        return int(high), int(low or high)
    except ValueError:
        return -1, -1


if __name__ == "__main__":
    sys.exit(main())
