"""Where the things of a lab are, all of it from its name: directories, addresses, the link to this machine.

/run/flota-lab/NAME/          what is gone after a reboot: lab.json, hosts, NODE/run (a link to its /run), images
/var/lib/flota-lab/NAME/NODE  a node's disk: its daemon's state directory and log
/flota-lab/NAME/NODE          its control group, in every hierarchy
fl-NAME                       this machine's end of the cable to the lab's switch
"""

import fcntl
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from flota.node.lab import cgroups
from flota.node.lab.errors import LabError

RUN = Path("/run/flota-lab")
STATE = Path("/var/lib/flota-lab")
CGROUP = "flota-lab"
# The machine beside the nodes: holds the bridge that joins them, and is the parent of all.
SWITCH = "switch"

# An interface's name has 15 characters; ours begins with "fl-".
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?")
# Set apart for tests between networks (RFC 2544), so no real network is hidden. Never part of the swarm's own pools.
_POOL = ipaddress.ip_network("198.18.0.0/15")
# Its counterpart (RFC 5180): an IPv6 address follows from the IPv4 one.
_POOL_IPV6 = int(ipaddress.IPv6Address("2001:2::"))
MOST_MANAGERS = 50
MOST_WORKERS = 100


def check_name(name: str) -> str:
    """`name` if a lab may have it. Raises LabError."""
    if not _NAME.fullmatch(name):
        raise LabError(f"invalid lab name {name!r}: 1 to 12 of a-z, 0-9 and, inside, - are allowed")
    return name


def run_directory(lab: str) -> Path:
    """What of a lab is gone after a reboot."""
    return RUN / lab


def disk(lab: str, node: str) -> Path:
    """What of a node survives its death."""
    return STATE / lab / node


def cgroup(lab: str, machine: str) -> str:
    """A machine's control group, below the root of each hierarchy."""
    return f"{CGROUP}/{lab}/{machine}"


def host_link(lab: str) -> str:
    """The interface on this machine that leads to the lab."""
    return f"fl-{lab}"


def ipv6_of(address: str) -> str:
    """The IPv6 address of whoever has this IPv4 one in a lab: 2001:2:0:1203::b of 198.18.3.11, in a /64 per lab."""
    _, second, third, last = ipaddress.IPv4Address(address).packed
    return str(ipaddress.IPv6Address(_POOL_IPV6 + ((second << 8 | third) << 64) + last))


@dataclass(frozen=True)
class Plan:
    """What a lab was asked to be."""

    managers: int
    workers: int
    # The third and second last byte of its /24.
    subnet: str
    # What each node runs in place of flota's daemon; empty = the daemon.
    command: tuple[str, ...] = ()

    def addresses(self) -> dict[str, str]:
        """Each node's address: managers from .11, workers from .101."""
        hosts = ipaddress.ip_network(self.subnet).network_address
        managers = {f"m{number}": str(hosts + 10 + number) for number in range(1, self.managers + 1)}
        return managers | {f"w{number}": str(hosts + 100 + number) for number in range(1, self.workers + 1)}

    @property
    def host_address(self) -> str:
        """This machine's address in the lab."""
        return str(ipaddress.ip_network(self.subnet).network_address + 254)

    def write(self, lab: str) -> None:
        """Keep it, so that others find it."""
        (run_directory(lab) / "lab.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, lab: str) -> "Plan | None":
        """The plan of a lab; None when there is none (its maker was killed very early)."""
        try:
            values = json.loads((run_directory(lab) / "lab.json").read_text())
            return cls(values["managers"], values["workers"], values["subnet"], tuple(values["command"]))
        except (FileNotFoundError, ValueError, KeyError):
            return None


@contextmanager
def machine_lock() -> Iterator[None]:
    """One at a time on this machine: labs pick their subnets, shared directories come and go."""
    descriptor = os.open(RUN.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def claim(lab: str, managers: int, workers: int, command: tuple[str, ...]) -> Plan:
    """Take the name and a free subnet. Raises LabError when the name is taken."""
    with machine_lock():
        if lab in names():
            raise LabError(f"lab {lab} is there already (flota lab down --name {lab} removes it)")
        plan = Plan(managers, workers, _free_subnet(), command)
        run_directory(lab).mkdir(parents=True)
        plan.write(lab)
    return plan


def names() -> list[str]:
    """Every lab that has left a trace in a directory."""
    return sorted({entry.name for parent in (RUN, STATE) if parent.is_dir() for entry in parent.iterdir()})


def forget_parents() -> None:
    """Remove what labs share when no lab is left."""
    with machine_lock():
        cgroups.remove_if_empty(CGROUP)
        for parent in (RUN, STATE):
            with suppress(OSError):
                parent.rmdir()


def _free_subnet() -> str:
    taken = [ipaddress.ip_network(plan.subnet) for lab in names() if (plan := Plan.read(lab))]
    shown = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, text=True, check=True).stdout
    for route in json.loads(shown or "[]"):
        with suppress(ValueError):
            network = ipaddress.IPv4Network(route["dst"], strict=False)
            taken.append(network)
    for subnet in _POOL.subnets(new_prefix=24):
        if not any(subnet.overlaps(other) for other in taken):
            return str(subnet)
    raise LabError(f"no free subnet is left in {_POOL}: {len(taken)} routes and labs have it all")
