"""The network of a lab: one bridge in the switch's network namespace, a cable to each node and one to this machine.

A port of the bridge has its node's name. There is no route to anywhere else. Partitions are rules in the switch, so
they outlive a node's death and nothing on the nodes can tell them from a broken network.
"""

import ipaddress
import subprocess
from collections.abc import Collection, Sequence

from flota.node.lab import places
from flota.node.lab.errors import LabError

_BRIDGE = "switch"
_HOST_PORT = "host"
_TABLE = "partitions"


def _run(argv: Sequence[str], script: str = "") -> str:
    done = subprocess.run(argv, input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"the lab's network: {' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _ip(lines: Sequence[str], pid: int | None = None) -> None:
    """Commands for ip(8), in the network namespace of `pid` or this machine's."""
    where = [f"/proc/{pid}/ns/net"] if pid else []
    enter = ["nsenter", f"--net={where[0]}"] if where else []
    _run([*enter, "ip", "-batch", "-"], "".join(f"{line}\n" for line in lines))


def _hardware_address(address: str) -> str:
    """A node keeps its hardware address when it boots again, as machines do: nobody holds a stale one."""
    return "02:f1:" + ":".join(f"{byte:02x}" for byte in ipaddress.ip_address(address).packed)


def lay(lab: str, plan: places.Plan, switch: int) -> None:
    """Make the bridge and the cable to this machine."""
    link = places.host_link(lab)
    _ip(
        [
            f"link add name {_BRIDGE} type bridge stp_state 0 mcast_snooping 0",
            f"link set dev {_BRIDGE} up",
            "link set dev lo up",
        ],
        switch,
    )
    _ip(
        [
            f"link add name {link} address {_hardware_address(plan.host_address)} type veth "
            f"peer name {_HOST_PORT} netns {switch}",
            f"address add {plan.host_address}/24 dev {link}",
            f"address add {places.ipv6_of(plan.host_address)}/64 dev {link} nodad",
            f"link set dev {link} up",
        ]
    )
    _ip([f"link set dev {_HOST_PORT} master {_BRIDGE} up"], switch)


def plug(switch: int, node: str, pid: int, address: str) -> None:
    """Give a node its cable and its addresses."""
    _ip(
        [
            f"link add name {node} type veth peer name eth0 address {_hardware_address(address)} netns {pid}",
            f"link set dev {node} master {_BRIDGE} up",
        ],
        switch,
    )
    _ip(
        [
            "link set dev lo up",
            f"address add {address}/24 dev eth0",
            f"address add {places.ipv6_of(address)}/64 dev eth0 nodad",
            "link set dev eth0 up",
        ],
        pid,
    )


def cut(switch: int, node: str) -> None:
    """Take a node's cable away. No error when there is none."""
    if node in ports(switch):
        _ip([f"link delete dev {node}"], switch)


def ports(switch: int) -> set[str]:
    """The nodes that have a cable."""
    shown = _run(["nsenter", f"--net=/proc/{switch}/ns/net", "ip", "-brief", "link", "show", "master", _BRIDGE])
    return {line.split("@")[0].split()[0] for line in shown.splitlines()} - {_HOST_PORT}


def partition(switch: int, a: Collection[str], b: Collection[str]) -> None:
    """Drop every frame between a node of `a` and one of `b`."""
    rules = [f"add table bridge {_TABLE}"]
    rules.append(f"add chain bridge {_TABLE} forward {{ type filter hook forward priority 0; policy accept; }}")
    for source, target in ((a, b), (b, a)):
        names = [" , ".join(f'"{name}"' for name in sorted(side)) for side in (source, target)]
        rules.append(f"add rule bridge {_TABLE} forward iifname {{ {names[0]} }} oifname {{ {names[1]} }} drop")
    _nft(switch, rules)


def heal(switch: int) -> None:
    """Let everything through again."""
    _nft(switch, [f"add table bridge {_TABLE}", f"delete table bridge {_TABLE}"])


def _nft(switch: int, rules: Sequence[str]) -> None:
    _run(["nsenter", f"--net=/proc/{switch}/ns/net", "nft", "-f", "-"], "\n".join(rules) + "\n")


def remove_host_link(lab: str) -> None:
    """Take away this machine's end. No error when it is gone."""
    link = places.host_link(lab)
    done = subprocess.run(["ip", "link", "delete", "dev", link], capture_output=True, text=True, check=False)
    # The kernel may take it away meanwhile, with the namespace of its other end.
    gone = ("Cannot find device", "No such device")
    if done.returncode and not any(words in done.stderr for words in gone):
        raise LabError(f"cannot remove interface {link}: {done.stderr.strip()}")
