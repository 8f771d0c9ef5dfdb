"""`flota volume rm` and `prune`: of this node and others."""

from __future__ import annotations

import click

from flota.cli import completing, lookup, volumes
from flota.cli.failures import BadFlag
from flota.cli.filters import Filters
from flota.cli.groups import Command
from flota.cli.lookup import fail_with
from flota.cli.options import confirmed, filter_option, force_option
from flota.cli.session import Session, failure_of, talks
from flota.cli.several import remove_each


@click.command(cls=Command, examples=["flota volume rm data", "flota volume rm --node w2 data"])
@click.option("-f", "--force", is_flag=True, help="It need not be there.")
@volumes.node_option
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...", shell_complete=completing.volumes)
@talks
async def rm(session: Session, names: tuple[str, ...], force: bool, node: str) -> None:
    """Remove volumes, and all that is in them.

    Without --node this node's, or where this node has none of that name, that of the only node that has one.
    """

    async def remove(name: str) -> None:
        await volumes.remove(session, node, name, force)

    await remove_each(session, names, remove)


@click.command(
    cls=Command,
    examples=[
        "flota volume prune",
        "flota volume prune --all --force --filter label=scratch",
        "flota volume prune --all-nodes",
    ],
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that somebody gave a name.")
@click.option("--all-nodes", is_flag=True, help="Those of every node.")
@filter_option("label")
@force_option
@volumes.node_option
@talks
async def prune(
    session: Session, filters: tuple[str, ...], force: bool, node: str, all_nodes: bool, everything: bool
) -> None:
    """Remove volumes that nothing uses, and all that is in them: this node's, or as --node and --all-nodes say.

    Without --all only those whose name was made up.
    """
    import grpc

    from flota.cli.output.human import decimal_size
    from flota.v1.local_pb2 import PruneVolumesRequest

    if node and all_nodes:
        raise BadFlag("--node and --all-nodes exclude each other")
    request = PruneVolumesRequest(labels=Filters(filters, ("label",)).label_map("label"), all=everything)
    where = "every node" if all_nodes else f"node {node}" if node else "this node"
    kind = "volumes" if everything else "anonymous volumes"
    if not confirmed(f"This will remove all {kind} on {where} that nothing uses.", force):
        return
    if all_nodes:
        targets = list(dict.fromkeys(one.node_id for one in await volumes.of_all_nodes(session)))
    else:
        targets = [(await lookup.node(session, node)).id if node else ""]
    reclaimed, failures = 0, []
    for target in targets:
        try:
            answer = await volumes.prune(session, target, request)
        except grpc.aio.AioRpcError as error:
            # The other nodes' can go all the same.
            failures.append(str(failure_of(error, session.host)))
            continue
        for name in answer.names:
            click.echo(name)
        reclaimed += answer.reclaimed_bytes
    click.echo(f"Total reclaimed space: {decimal_size(reclaimed)}")
    fail_with(failures)
