"""Run within a task's namespace by checkup.py: `python -m flota.overlay.looking_inside NAME ADDRESS…`.

Asks the task's DNS server for NAME's addresses of both IP versions, and whether each ADDRESS answers; one line of JSON.
"""

import ipaddress
import json
import sys

from dnslib import DNSError, DNSRecord

from flota.overlay import probes
from flota.overlay.dns.server import ADDRESS

_SECONDS = 3


def ask(name: str) -> tuple[list[str], str]:
    """The addresses that a name leads to, over TCP (they may be many); and why there is no answer."""
    found: list[str] = []
    try:
        for kind in ("A", "AAAA"):
            answer = DNSRecord.parse(DNSRecord.question(name, kind).send(ADDRESS, 53, tcp=True, timeout=_SECONDS))
            found += [str(ipaddress.ip_address(str(record.rdata))) for record in answer.rr]
    except (OSError, DNSError) as error:
        return [], str(error) or type(error).__name__
    return found, ""


if __name__ == "__main__":
    addresses, why = ask(sys.argv[1])
    print(json.dumps({"addresses": addresses, "error": why, "round_trips": [*map(probes.round_trip, sys.argv[2:])]}))
