"""`flota backup`: the whole state of a swarm in a file, and a swarm out of one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flota.cli.failures import CommandFailed
from flota.cli.groups import Command, Group
from flota.cli.options import result_format_option
from flota.cli.session import Session, talks
from flota.cli.swarm_options import checked_address

if TYPE_CHECKING:
    from flota.rpc.backups import Backup
    from flota.v1.local_pb2 import RestoreRequest

_PART = 1 << 20


@click.group(cls=Group)
def backup() -> None:
    """Keep a swarm's state in a file, and make a swarm of it again."""


@backup.command("create", cls=Command, examples=["flota backup create /mnt/backups/swarm-$(date +%F)"])
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@talks
async def create(session: Session, file: Path) -> None:
    """Write services, secrets, nodes, root key and all else of the swarm to FILE, while everything goes on.

    FILE appears, or is replaced, when it is complete and checked. With autolock it is encrypted with the unlock key.
    """
    from flota.v1.control_pb2 import CreateBackupRequest

    draft = file.with_name(f"{file.name}.part")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            async for message in session.control.CreateBackup(CreateBackupRequest()):
                output.write(message.data)
            output.flush()
            os.fsync(output.fileno())
        made = _read(draft)
        draft.replace(file)
        _sync(file.parent)
    except OSError as error:
        raise CommandFailed(f"cannot write the backup {file}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    click.echo(f"Backup of swarm {made.header.cluster_id} written to {file} ({_words(made)}).")
    if made.header.stale:
        click.echo(f"flota: warning: the backup may lack the newest changes: {made.header.stale}", err=True)
    if not made.encrypted:
        click.echo(
            "flota: warning: the backup is not encrypted (autolock is off): it holds secrets and the swarm's root key",
            err=True,
        )


@backup.command(
    "restore",
    cls=Command,
    examples=["flota backup restore swarm-2026-11-27", "flota backup restore --unlock-key-file key swarm-2026-11-27"],
)
@click.option("--advertise-addr", metavar="ADDRESS", help="Where others reach this node, as for swarm init.")
@click.option("--listen-addr", metavar="ADDRESS", help="Where it listens (0.0.0.0:2377).")
@click.option("--data-path-addr", metavar="ADDRESS", help="Where the networks' traffic goes (the advertised address).")
@click.option(
    "--unlock-key-file",
    type=click.File(),
    help="The unlock key that the swarm had then (- = standard input); otherwise it is asked for.",
)
@result_format_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@talks
async def restore(
    session: Session,
    file: Path,
    advertise_addr: str | None,
    listen_addr: str | None,
    data_path_addr: str | None,
    unlock_key_file: Any,
    form: str | None,
) -> None:
    """Begin the swarm of FILE again, with this machine, which is in no swarm, as its only manager.

    Be sure that the old managers are gone for good: two swarms with one name would both want its workers.
    """
    from flota.v1.local_pb2 import RestoreRequest

    found = _read(file)
    options = RestoreRequest.Options(
        advertise_address=checked_address("--advertise-addr", advertise_addr),
        listen_address=checked_address("--listen-addr", listen_addr, add_port=True),
        data_path_address=data_path_addr or "",
    )
    if found.encrypted:
        options.unlock_key = unlock_key_file.readline().strip() if unlock_key_file is not None else _asked()
    answer = await session.local.Restore(_parts(options, file))
    if form:
        from flota.cli.output.objects import print_object

        tokens = {"Worker": answer.tokens.worker, "Manager": answer.tokens.manager}
        print_object({"NodeID": answer.node_id, "Address": answer.address, "JoinTokens": tokens}, form)
        return
    click.echo(
        f"Swarm restored: current node ({answer.node_id}) is now its only manager, with {answer.services} services.\n\n"
        f"The {answer.other_nodes} nodes of the backup come back by themselves when this manager has an address that\n"
        "they know. Any other machine joins with:\n\n"
        f"    flota swarm join --token {answer.tokens.worker} {answer.address}\n"
    )


@backup.command("inspect", cls=Command, examples=["flota backup inspect swarm-2026-11-27"])
@result_format_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def inspect(file: Path, form: str | None) -> None:
    """Check FILE to its last byte and tell what it holds; needs no key and no daemon."""
    from flota.cli.output.objects import print_objects

    found = _read(file)
    header = found.header
    shape = {
        "ClusterID": header.cluster_id,
        "CreatedAt": header.created_at.ToJsonString(),
        "NodeID": header.node_id,
        "Hostname": header.hostname,
        "Version": header.software,
        "Index": header.index,
        "Objects": dict(sorted(header.objects.items())),
        "Encrypted": found.encrypted,
        "Stale": header.stale,
        "Size": found.size,
    }
    print_objects([shape], form)


def _read(file: Path) -> Backup:
    from flota.rpc.backups import read_backup
    from flota.rpc.errors import FlotaError

    try:
        with file.open("rb") as input:
            return read_backup(input, str(file))
    except FlotaError as error:
        raise CommandFailed(str(error)) from None


def _words(made: Backup) -> str:
    from flota.stacks.units import format_size

    objects = made.header.objects
    counts = ", ".join(f"{objects[word]} {word}{'s' * (objects[word] != 1)}" for word in ("node", "service", "task"))
    return f"{counts}, {format_size(made.size)}{', encrypted' if made.encrypted else ''}"


def _asked() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    return str(click.prompt("Please enter the unlock key the swarm had then", hide_input=True, err=True)).strip()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _parts(options: RestoreRequest.Options, file: Path) -> AsyncIterator[RestoreRequest]:
    from flota.v1.local_pb2 import RestoreRequest

    yield RestoreRequest(options=options)
    with file.open("rb") as input:
        while data := input.read(_PART):
            yield RestoreRequest(data=data)
