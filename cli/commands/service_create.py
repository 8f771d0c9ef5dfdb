"""`flota service create`."""

from __future__ import annotations

import os
from typing import Any

import click

from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.service.options import create_options
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    examples=[
        "flota service create --name web --replicas 3 -p 8080:80 nginx:1.27",
        "flota service create --name agent --mode global --mount type=bind,src=/var/log,dst=/logs,readonly busybox top",
        "flota service create --name once --mode replicated-job --replicas 10 --max-concurrent 2 busybox date",
    ],
)
@create_options
@click.argument("image")
@click.argument("arguments", nargs=-1, metavar="[COMMAND] [ARG]...")
@talks
async def create(session: Session, /, image: str, arguments: tuple[str, ...], **flags: Any) -> None:
    """Create a service from IMAGE, which runs COMMAND (or the image's) in each of its tasks."""
    from flota.cli.image_pins import pin
    from flota.cli.service.flags import spec_of_flags
    from flota.cli.service.following import Manner
    from flota.cli.service.references import fill_in
    from flota.v1.control_pb2 import CreateServiceRequest

    warnings: list[str] = []
    flags["env"] = _environment(flags)
    spec = spec_of_flags(image, arguments, flags, warnings)
    await fill_in(session, spec)
    if flags["with_registry_auth"]:
        from flota.cli.registry_auth import credentials_for

        spec.task.container.registry_auth = credentials_for(image)
    if not flags["no_resolve_image"]:
        warnings += await pin(session, spec)
    answer = await session.control.CreateService(CreateServiceRequest(spec=spec))
    warnings += answer.warnings
    manner = Manner(flags["detach"], flags["quiet"], flags["form"], flags["standstill"])
    manner.tell(answer.service, answer.service.id, warnings)
    await manner.wait(session, [answer.service])


def _environment(flags: dict[str, Any]) -> list[str]:
    """The lines of --env-file, then those of --env."""
    from flota.cli.service.values import environment, environment_file
    from flota.stacks.errors import BadValue

    lines: list[str] = []
    try:
        for file in flags["env_file"]:
            lines += environment_file(file.read(), os.environ)
        return lines + environment(flags["env"], os.environ)
    except BadValue as error:
        raise BadFlag(error.of("--env")) from None
    except UnicodeDecodeError:
        raise BadFlag("invalid --env-file: it is not text in UTF-8") from None
