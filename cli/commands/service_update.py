"""`flota service update`."""

from __future__ import annotations

import os
from typing import Any

import click

from flota.cli import completing, lookup
from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.service.options import update_options
from flota.cli.session import Session, talks

# Flags that say how to work, not what the service shall be.
_MANNERS = {"detach", "standstill", "quiet", "rollback", "form", "with_registry_auth", "no_resolve_image", "isolation"}


@click.command(
    cls=Command,
    examples=[
        "flota service update --image nginx:1.28 --update-parallelism 2 web",
        "flota service update --env-add LEVEL=debug --publish-rm 80 --network-add backend web",
        "flota service update --force web",
    ],
)
@update_options
@click.argument("service", shell_complete=completing.services)
@talks
async def update(session: Session, /, service: str, **flags: Any) -> None:
    """Change SERVICE; tasks that no longer fit are replaced in a rolling way."""
    from flota.cli.commands.service_scale import go_back
    from flota.cli.image_pins import pin
    from flota.cli.service.flags import changed_spec
    from flota.cli.service.following import Manner, change
    from flota.cli.service.references import fill_in
    from flota.cli.service.values import environment
    from flota.stacks.errors import BadValue
    from flota.v1.control_pb2 import UpdateServiceRequest

    manner = Manner(flags["detach"], flags["quiet"], flags["form"], flags["standstill"])
    if flags["rollback"]:
        others = [name for name, value in flags.items() if name not in _MANNERS and value not in (None, (), False)]
        if others:
            raise BadFlag(f"other flags cannot be combined with --rollback (--{others[0].replace('_', '-')})")
        await go_back(session, service, manner)
        return
    found = await lookup.service(session, service)
    network_ids: dict[str, str] = {}
    if flags["network_add"] or flags["network_rm"]:
        from flota.v1.control_pb2 import ListNetworksRequest

        networks = (await session.control.ListNetworks(ListNetworksRequest())).networks
        network_ids = {network.spec.annotations.name: network.id for network in networks}
    warnings: list[str] = []
    try:
        flags["env_add"] = environment(flags["env_add"], os.environ)
    except BadValue as error:
        raise BadFlag(error.of("--env-add")) from None
    spec = changed_spec(found.spec, flags, network_ids, warnings)
    await fill_in(session, spec)
    if flags["with_registry_auth"]:
        from flota.cli.registry_auth import credentials_for

        spec.task.container.registry_auth = credentials_for(spec.task.container.image)
    if flags["image"] and not flags["no_resolve_image"]:
        warnings += await pin(session, spec)
    request = UpdateServiceRequest(service_id=found.id, version=found.meta.version, spec=spec)
    await change(session, request, service, manner, warnings)
