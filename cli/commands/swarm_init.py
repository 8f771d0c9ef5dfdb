"""`flota swarm init`."""

from __future__ import annotations

import ipaddress
from typing import Any

import click

from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.options import result_format_option
from flota.cli.session import Session, talks
from flota.cli.swarm_options import address_options, checked_address, cluster_options, set_cluster_spec, unlock_words


@click.command(
    cls=Command,
    examples=[
        "flota swarm init",
        "flota swarm init --advertise-addr eth1",
        "flota swarm init --advertise-addr 192.168.1.10 --default-addr-pool 10.20.0.0/16",
        "flota swarm init --default-addr-pool 10.20.0.0/16 --default-addr-pool fd00:20::/48",
    ],
)
@address_options
@cluster_options
@click.option("--data-path-port", type=int, default=0, help="UDP port of the networks' traffic (4789).")
@click.option(
    "--default-addr-pool",
    multiple=True,
    metavar="SUBNET",
    help="Where networks get subnets from (10.0.0.0/8); one of IPv6 gives the default network IPv6, too.",
)
@click.option(
    "--default-addr-pool-mask-length", type=int, default=0, help="Length of those subnets' prefix (24; IPv6: 64)."
)
@click.option(
    "--force-new-cluster", is_flag=True, help="A new swarm of this one manager, from what it has on its disk."
)
@result_format_option
@talks
async def init(session: Session, /, form: str | None, **flags: Any) -> None:
    """Begin a swarm; this node becomes its first manager."""
    from flota.v1.local_pb2 import InitRequest
    from flota.v1.types_pb2 import NodeAvailability

    _check(flags)
    request = InitRequest(
        advertise_address=checked_address("--advertise-addr", flags["advertise_addr"]),
        listen_address=checked_address("--listen-addr", flags["listen_addr"], add_port=True),
        data_path_address=flags["data_path_addr"] or "",
        data_path_port=flags["data_path_port"],
        availability=NodeAvailability.Value(f"NODE_AVAILABILITY_{flags['availability'].upper()}"),
        address_pools=flags["default_addr_pool"],
        subnet_length=flags["default_addr_pool_mask_length"],
        force_new_cluster=flags["force_new_cluster"],
    )
    set_cluster_spec(request.spec, flags)
    answer = await session.local.Init(request)
    if form:
        from flota.cli.output.objects import print_object

        tokens = {"Worker": answer.tokens.worker, "Manager": answer.tokens.manager}
        shape = {"NodeID": answer.node_id, "Address": answer.address, "JoinTokens": tokens}
        print_object(shape | ({"UnlockKey": answer.unlock_key} if answer.unlock_key else {}), form)
        return
    click.echo(
        f"Swarm initialized: current node ({answer.node_id}) is now a manager.\n\n"
        "To add a worker to this swarm, run the following command:\n\n"
        f"    flota swarm join --token {answer.tokens.worker} {answer.address}\n\n"
        "To add a manager to this swarm, run 'flota swarm join-token manager' and follow the instructions.\n"
    )
    if answer.unlock_key:
        click.echo(unlock_words(answer.unlock_key))


def _check(flags: dict[str, Any]) -> None:
    port, length = flags["data_path_port"], flags["default_addr_pool_mask_length"]
    if port and not 1024 <= port <= 49151:
        raise BadFlag(f"invalid --data-path-port {port}: 1024 to 49151 is needed, or 0 for 4789")
    for text in flags["default_addr_pool"]:
        try:
            pool = ipaddress.ip_network(text)
        except ValueError:
            allowed = "a network such as 10.20.0.0/16 or fd00:20::/48 is needed"
            raise BadFlag(f"invalid --default-addr-pool {text!r}: {allowed}") from None
        if pool.version == 4 and length and length < pool.prefixlen:
            raise BadFlag(
                f"invalid --default-addr-pool-mask-length {length}: the pool {text} is smaller than such a subnet"
            )
    if length and not 8 <= length <= 29:
        raise BadFlag(f"invalid --default-addr-pool-mask-length {length}: 8 to 29 is needed")
