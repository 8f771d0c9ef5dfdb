"""Answers from the node's own names, or says that the question is for somebody else. Pure but for the shuffle.

A container sees the names of the networks it is on, in their order: the first network that knows a name answers.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from random import Random
from typing import TypeVar

from flota.overlay.dns import wire
from flota.overlay.model import Model
from flota.overlay.names import NameTable

T = TypeVar("T")

# Seconds. Clients that cache must follow a change soon.
TTL = 2
# Names whose records are remembered; then it begins anew.
_REMEMBERED = 4096


@lru_cache(maxsize=65536)
def _record(address: str) -> bytes:
    return wire.address_record(address, TTL)


def _records(kind: int, addresses: Iterable[str]) -> list[bytes]:
    if kind == wire.A:
        return [_record(address) for address in addresses if ":" not in address]
    if kind == wire.AAAA:
        return [_record(address) for address in addresses if ":" in address]
    if kind == wire.ANY:
        return [_record(address) for address in addresses]
    return []


class Resolver:
    """Names as seen by tasks on this node. `random` deals the order of answers."""

    def __init__(self, model: Model, random: Random) -> None:
        self._model = model
        self._shuffle: Callable[[list[bytes]], None] = random.shuffle
        # What names led to when the model had this revision.
        self._revision = -1
        self._records: dict[tuple[int, str, tuple[str, ...]], list[bytes] | None] = {}

    def answer(self, question: wire.Question, networks: Sequence[str], limit: int | None) -> bytes | None:
        """The answer for a task on `networks`, of at most `limit` bytes (None: any); None if it is not ours to give."""
        if question.kind == wire.PTR:
            return self._reverse(question, networks, limit)
        if question.kind == wire.SRV:
            places = self._find(question.name, networks, NameTable.service)
            if places is None:
                return None
            records = [wire.service_record(target, port, TTL) for target, port in places]
            self._shuffle(records)
            return wire.reply(question, wire.NOERROR, records, limit)
        known = self._known(question.kind, question.name, networks)
        if known is None:
            # Before the first complete set nobody can say that a name of ours does not exist.
            if not self._model.complete and "." not in question.name:
                return wire.reply(question, wire.SERVFAIL)
            return None
        if len(known) > 1:
            known = known.copy()
            self._shuffle(known)
        return wire.reply(question, wire.NOERROR, known, limit)

    def _known(self, kind: int, name: str, networks: Sequence[str]) -> list[bytes] | None:
        """The addresses of a name as records (not to be changed), None if it is not ours; until a name changes."""
        if self._revision != self._model.revision or len(self._records) >= _REMEMBERED:
            self._records.clear()
            self._revision = self._model.revision
        key = (kind, name, tuple(networks))
        try:
            return self._records[key]
        except KeyError:
            addresses = self._find(name, networks, NameTable.lookup)
            records = None if addresses is None else _records(kind, addresses)
            self._records[key] = records
            return records

    def _find(self, name: str, networks: Sequence[str], look: Callable[[NameTable, str], T | None]) -> T | None:
        for network_id in networks:
            table = self._model.names(network_id)
            if table is None:
                continue
            found = look(table, name)
            if found is None:
                network = self._model.networks.get(network_id)
                suffix = f".{network.spec.annotations.name.lower()}" if network else ""
                if len(suffix) > 1 and name.endswith(suffix):
                    found = look(table, name[: -len(suffix)])
            if found is not None:
                return found
        return None

    def _reverse(self, question: wire.Question, networks: Sequence[str], limit: int | None) -> bytes | None:
        address = wire.reverse_address(question.name)
        if address is None:
            return None
        for network_id in networks:
            table = self._model.names(network_id)
            network = self._model.networks.get(network_id)
            name = table.reverse(address) if table else None
            if name is not None:
                full = f"{name}.{network.spec.annotations.name}" if network else name
                return wire.reply(question, wire.NOERROR, [wire.name_record(full, TTL)], limit)
            if network is not None and self._within(address, [ipam.subnet for ipam in network.ipam]):
                return wire.reply(question, wire.NXDOMAIN)
        return None

    @staticmethod
    def _within(address: str, subnets: Iterable[str]) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in ipaddress.ip_network(subnet, strict=False) for subnet in subnets if subnet)
