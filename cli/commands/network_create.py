"""`flota network create`."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import click

from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.options import label_option, refused_option, result_format_option
from flota.cli.session import Session, talks

if TYPE_CHECKING:
    from flota.v1.specs_pb2 import NetworkSpec
    from flota.v1.types_pb2 import IpamConfig


@click.command(
    cls=Command,
    examples=[
        "flota network create backend",
        "flota network create --opt encrypted --ipv6 secret",
        "flota network create --subnet 10.9.0.0/24 --gateway 10.9.0.1 --ip-range 10.9.0.128/25 backend",
        "flota network create --opt com.docker.network.driver.mtu=1400 --label team=shop backend",
        "flota network create --ingress --ipv6 --subnet 10.11.0.0/16 mesh",
    ],
)
@click.option("-d", "--driver", default="overlay", metavar="DRIVER", help="overlay (the default, and all there is).")
@click.option("--subnet", "subnets", multiple=True, metavar="SUBNET", help="Addresses of the network (chosen for you).")
@click.option("--gateway", "gateways", multiple=True, metavar="ADDRESS", help="Gateway of a subnet.")
@click.option("--ip-range", "ranges", multiple=True, metavar="SUBNET", help="Tasks' addresses come from this part.")
@click.option("--aux-address", "reserved", multiple=True, metavar="NAME=ADDRESS", help="Set an address aside.")
@click.option("-o", "--opt", "options", multiple=True, metavar="KEY=VALUE", help="Option of the driver.")
@label_option
@click.option("--attachable", is_flag=True, help="Plain containers may join.")
@click.option("--internal", is_flag=True, help="No way out of the network.")
@click.option("--ingress", is_flag=True, help="The network of published ports; there can be one.")
@click.option("--ipv6", is_flag=True, help="IPv6 addresses, too.")
@refused_option("--config-from", "there are no networks that are only configuration")
@refused_option("--config-only", "there are no networks that are only configuration", is_flag=True)
@refused_option("--ipam-opt", "the managers give out addresses, and have no options for that")
@click.option("--ipam-driver", type=click.Choice(["default"]), expose_value=False, hidden=True)
@click.option("--scope", type=click.Choice(["swarm"]), help="Only for Docker's sake: there is no other.")
@result_format_option
@click.argument("name")
@talks
async def create(session: Session, /, name: str, form: str | None, **flags: Any) -> None:
    """Create a network with the given NAME, on which services find each other by their names."""
    from flota.v1.control_pb2 import CreateNetworkRequest

    answer = await session.control.CreateNetwork(CreateNetworkRequest(spec=_spec(name, flags)))
    if form:
        from flota.cli.output.objects import print_object

        print_object({"Id": answer.network.id, "Warning": ""}, form)
    else:
        click.echo(answer.network.id)


def _spec(name: str, flags: dict[str, Any]) -> NetworkSpec:
    from flota.cli.service.scalars import read_flag
    from flota.cli.service.values import key_value
    from flota.v1.specs_pb2 import NetworkSpec
    from flota.v1.types_pb2 import Driver

    spec = NetworkSpec(driver=Driver(name=flags["driver"]))
    spec.annotations.name = name
    spec.annotations.labels.update(read_flag("label", key_value, text) for text in flags["labels"])
    spec.driver.options.update(read_flag("opt", key_value, text) for text in flags["options"])
    spec.attachable, spec.internal, spec.ingress = flags["attachable"], flags["internal"], flags["ingress"]
    spec.ipv6_enabled = flags["ipv6"]
    spec.ipam.extend(_ipam(flags))
    return spec


def _ipam(flags: dict[str, Any]) -> list[IpamConfig]:
    """One entry per subnet, each with the gateway, range and reserved addresses that lie in it."""
    from flota.v1.types_pb2 import IpamConfig

    pools = [(_network("--subnet", text), IpamConfig(subnet=text)) for text in flags["subnets"]]

    def pool_of(flag: str, text: str, first: Any) -> IpamConfig:
        for subnet, config in pools:
            if first in subnet:
                return config
        shown = ", ".join(flags["subnets"]) or "none is given"
        raise BadFlag(f"invalid {flag} {text!r}: it must lie within a --subnet ({shown})")

    for text in flags["gateways"]:
        config = pool_of("--gateway", text, _address("--gateway", text))
        if config.gateway:
            raise BadFlag(f"invalid --gateway {text!r}: the subnet {config.subnet} has {config.gateway} already")
        config.gateway = text
    for text in flags["ranges"]:
        config = pool_of("--ip-range", text, _network("--ip-range", text).network_address)
        if config.range:
            raise BadFlag(f"invalid --ip-range {text!r}: the subnet {config.subnet} has {config.range} already")
        config.range = text
    for text in flags["reserved"]:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise BadFlag(f"invalid --aux-address {text!r}: NAME=ADDRESS is needed")
        pool_of("--aux-address", text, _address("--aux-address", value)).reserved[key] = value
    return [config for _, config in pools]


def _network(flag: str, text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise BadFlag(f"invalid {flag} {text!r}: a network such as 10.9.0.0/24 is needed") from None


def _address(flag: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise BadFlag(f"invalid {flag} {text!r}: an address such as 10.9.0.1 is needed") from None
