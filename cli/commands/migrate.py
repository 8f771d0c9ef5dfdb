"""`flota migrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flota.cli.failures import BadFlag, CommandFailed
from flota.cli.groups import Command
from flota.cli.session import Session, failure_of, talks

if TYPE_CHECKING:
    from flota.gateway.migration import Plan, Step

# SwarmKit's limit.
_TOO_LARGE = 500 << 10


@click.command(
    cls=Command,
    examples=[
        "flota migrate --from unix:///var/run/docker.sock",
        "flota migrate --from unix:///var/run/docker.sock --secret db-password=./password --apply",
    ],
)
@click.option("--from", "source", required=True, metavar="HOST", help="A manager of Docker's: unix:///… or tcp://…")
@click.option(
    "--secret", multiple=True, metavar="NAME=FILE", help="The data of a secret, which Docker keeps (can be repeated)."
)
@click.option("--apply", is_flag=True, help="Make it so. Without it, only say what would be made.")
@talks
async def migrate(session: Session, source: str, secret: tuple[str, ...], apply: bool) -> None:
    """Take over networks, configs, secrets and services from a Docker swarm.

    Says what becomes of each thing; nothing there is changed, and what is here already by name is left alone. What
    cannot be taken over is said with its reason, and with --apply nothing is made then.
    """
    from flota.cli.content import read_content
    from flota.gateway.migration import plan
    from flota.gateway.reading import read_swarm
    from flota.rpc.errors import FlotaError

    data: dict[str, bytes] = {}
    for text in secret:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise BadFlag(f"invalid --secret {text!r}: NAME=FILE is needed")
        data[name] = read_content(file, "secret", _TOO_LARGE)
    try:
        there = await read_swarm(source)
    except FlotaError as failure:
        raise CommandFailed(str(failure)) from None
    made = plan(there, await _names(session), data)
    click.echo("\n".join(_lines(made)))
    if not apply:
        return
    if made.blocked:
        raise CommandFailed(f"nothing was made: {len(made.blocked)} of {len(made.steps)} things cannot be taken over")
    await _make(session, made)


async def _names(session: Session) -> dict[str, set[str]]:
    """What is in this swarm."""
    from flota.v1 import control_pb2 as control

    networks = (await session.control.ListNetworks(control.ListNetworksRequest())).networks
    configs = (await session.control.ListConfigs(control.ListConfigsRequest())).configs
    secrets = (await session.control.ListSecrets(control.ListSecretsRequest())).secrets
    services = (await session.control.ListServices(control.ListServicesRequest())).services
    return {
        "network": {each.spec.annotations.name for each in networks},
        "config": {each.spec.annotations.name for each in configs},
        "secret": {each.spec.annotations.name for each in secrets},
        "service": {each.spec.annotations.name for each in services},
    }


def _lines(plan: Plan) -> list[str]:
    lines = []
    for step in plan.steps:
        mark = "=" if step.there else "!" if step.spec is None else "+"
        lines.append(f"{mark} {step.kind} {step.name}{': is here already' if step.there else ''}")
        lines += [f"    {text}" for text in (*([step.why] if step.why else []), *step.notes)]
    if plan.notes:
        lines += ["Labels of nodes, which services may be placed by:", *(f"    {note}" for note in plan.notes)]
    return lines or ["there is nothing to take over"]


async def _make(session: Session, plan: Plan) -> None:
    import grpc

    for step in plan.steps:
        if step.spec is None:
            continue
        try:
            await _create(session, step)
        except grpc.aio.AioRpcError as error:
            raise CommandFailed(f"{step.kind} {step.name}: {failure_of(error, session.host)}") from None
        click.echo(f"Created {step.kind} {step.name}")


async def _create(session: Session, step: Step) -> None:
    from flota.v1 import control_pb2 as control
    from flota.v1 import specs_pb2 as specs

    match step.spec:
        case specs.NetworkSpec():
            await session.control.CreateNetwork(control.CreateNetworkRequest(spec=step.spec))
        case specs.ConfigSpec():
            await session.control.CreateConfig(control.CreateConfigRequest(spec=step.spec))
        case specs.SecretSpec():
            await session.control.CreateSecret(control.CreateSecretRequest(spec=step.spec))
        case specs.ServiceSpec():
            await session.control.CreateService(control.CreateServiceRequest(spec=step.spec))
