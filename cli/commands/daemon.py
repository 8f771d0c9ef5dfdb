"""`flota daemon`: becomes `python -m flota.node`, which this room may not import."""

from __future__ import annotations

import os
import sys

import click

from flota.cli.groups import Command


@click.command(
    cls=Command,
    examples=[
        "flota daemon",
        "flota daemon --label region=eu --generic-resource gpu=2",
        "flota daemon --state-dir /srv/flota --run-dir /run/flota --manager-metrics ''",
    ],
)
@click.option("--state-dir", metavar="DIRECTORY", help="What survives a reboot (/var/lib/flota).")
@click.option("--run-dir", metavar="DIRECTORY", help="Sockets and what belongs to running containers (/run/flota).")
@click.option("--cgroup-parent", metavar="PATH", help="Containers' control groups are below it (/flota).")
@click.option("--manager-metrics", metavar="ADDRESS", help="Where a manager serves /metrics (0.0.0.0:9323; '' = not).")
@click.option("--worker-metrics", metavar="ADDRESS", help="Where the worker serves /metrics (0.0.0.0:9324; '' = not).")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="For placement: engine.labels.KEY (can be repeated).")
@click.option(
    "--generic-resource", multiple=True, metavar="KIND=VALUE", help="A number or a name, gpu=2 (can be repeated)."
)
@click.option(
    "--insecure-registry", multiple=True, metavar="HOST[:PORT]", help="May speak plain HTTP (can be repeated)."
)
@click.option(
    "--docker-listen",
    metavar="HOST:PORT",
    help="The Docker Engine API for other machines, with mutual TLS (not unless given; 2376 is usual).",
)
@click.option(
    "--docker-socket",
    metavar="PATH",
    help="Make this path lead to the Docker Engine API: Docker's tools look at /var/run/docker.sock.",
)
@click.option(
    "--docker-tls-dir",
    metavar="DIRECTORY",
    help="ca.pem, cert.pem and key.pem for --docker-listen (/etc/flota/docker).",
)
@click.option(
    "--credential-helper",
    multiple=True,
    metavar="HOST=NAME",
    help="On managers: docker-credential-NAME gives nodes credentials for a registry (can be repeated).",
)
@click.option("--image-max-age", metavar="DURATION", help="Remove pulled images that no task needed for so long: 168h.")
@click.option("--image-disk", metavar="HIGH:LOW", help="Above HIGH % of the disk, down to LOW % (85:80; 0 = never).")
def daemon(
    label: tuple[str, ...],
    generic_resource: tuple[str, ...],
    insecure_registry: tuple[str, ...],
    credential_helper: tuple[str, ...],
    **single: str | None,
) -> None:
    """Run this machine's daemon until SIGTERM or SIGINT. Logs go to standard error; containers outlive it."""
    if single["image_max_age"] is not None:
        single["image_max_age"] = _seconds(single["image_max_age"])
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in single.items() if value is not None]
    arguments += [f"--label={one}" for one in label]
    arguments += [f"--generic-resource={one}" for one in generic_resource]
    arguments += [f"--insecure-registry={one}" for one in insecure_registry]
    arguments += [f"--credential-helper={one}" for one in credential_helper]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "flota.node", *arguments])


def _seconds(text: str) -> str:
    from flota.cli.failures import BadFlag
    from flota.stacks.errors import BadValue
    from flota.stacks.units import NANO, parse_duration

    try:
        return str(parse_duration(text, days=True) / NANO)
    except BadValue as error:
        raise BadFlag(error.of("--image-max-age")) from None
