"""Follows the cluster's events and prints them: as Docker does, through a Go template, as JSON lines, or as YAML.

A change of the leader is bridged: the next manager is asked for what has happened since, and nothing is told twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from flota.cli.failures import BadFlag
from flota.cli.watching import until_true
from flota.v1.control_pb2 import EventsRequest
from flota.v1.store_pb2 import SwarmEvent

if TYPE_CHECKING:
    from flota.cli.filters import Filters
    from flota.cli.session import Session

# What Docker calls them.
_DOCKERS_KINDS = {"container": "task", "daemon": "node"}
# Clocks of two leaders may differ by so much.
_OVERLAP_SECONDS = 5


class EventPrinter:
    """Prints the events that are wanted. Raises BadFlag for a bad template."""

    def __init__(self, wanted: Filters, form: str | None) -> None:
        self._wanted = wanted
        self._form = form
        self._template = None
        if form not in (None, "", "json", "yaml"):
            from flota.templates import Template, TemplateError

            try:
                self._template = Template(str(form))
            except TemplateError as error:
                raise BadFlag(f"invalid --format {form!r}: {error}") from None

    def print(self, event: SwarmEvent) -> None:
        """One line for `event`, if it is wanted."""
        if not self.takes(event):
            return
        if self._form == "json":
            from flota.templates import to_json

            click.echo(to_json(shape(event)))
        elif self._form == "yaml":
            from flota.stacks.compose.writing import any_to_yaml

            click.echo(f"---\n{any_to_yaml(shape(event))}", nl=False)
        elif self._template is not None:
            from flota.templates import Row, TemplateError

            try:
                click.echo(self._template.render(Row(shape(event))))
            except TemplateError as error:
                raise BadFlag(f"invalid --format {self._form!r}: {error}") from None
        else:
            click.echo(line(event))

    def takes(self, event: SwarmEvent) -> bool:
        """Docker's rules: values of one filter are or-ed, filters and-ed."""
        wanted, attributes = self._wanted, event.attributes
        if not (wanted.equals("type", event.kind) and wanted.equals("event", event.action)):
            return False
        for key in ("service", "task", "node", "network", "secret", "config", "container", "daemon"):
            if not _of(wanted.get(key), _DOCKERS_KINDS.get(key, key), event.kind, event.id, attributes):
                return False
        return (
            wanted.equals("scope", "swarm")
            and wanted.equals("stack", attributes.get("stack", ""))
            and (
                not wanted.get("image")
                or any(attributes.get("image", "").startswith(one) for one in wanted.get("image"))
            )
        )


def _of(values: list[str], key: str, kind: str, id: str, attributes: Mapping[str, str]) -> bool:
    """Whether an event is one of `key`: of the thing itself, or of a task of that service or on that node."""
    if not values:
        return True
    if kind == key:
        names, whole = [attributes.get("name", "")], id
    elif kind == "task" and key in ("service", "node"):
        names, whole = [attributes.get(key, "")], attributes.get(f"{key}.id", "")
    else:
        return False
    return any(value in names or (value and whole.startswith(value)) for value in values)


def line(event: SwarmEvent) -> str:
    """As Docker writes it: when, what, which (and what there is to know)."""
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event.attributes.items()))
    return f"{event.at.ToJsonString()} {event.kind} {event.action} {event.id} ({attributes})"


def shape(event: SwarmEvent) -> dict[str, Any]:
    """As Docker's API has it."""
    return {
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": dict(sorted(event.attributes.items()))},
        "scope": "swarm",
        "time": event.at.seconds,
        "timeNano": event.at.ToNanoseconds(),
        # What templates call them.
        "ID": event.id,
        "Scope": "swarm",
        "Time": event.at.seconds,
        "TimeNano": event.at.ToNanoseconds(),
    }


async def follow(session: Session, request: EventsRequest, printer: EventPrinter, seconds: float | None) -> None:
    """Print what comes, for so many seconds (None: until the stream ends)."""
    try:
        async with asyncio.timeout(seconds):
            await _follow(session, request, printer)
    except TimeoutError:
        return


async def _follow(session: Session, request: EventsRequest, printer: EventPrinter) -> None:
    last, told = 0, set[str]()

    async def read(hear: Callable[[], None]) -> bool:
        nonlocal last, told
        try:
            async for event in session.control.Events(request):
                hear()
                if event.version.index < last:
                    continue
                if event.version.index > last:
                    last, told = event.version.index, set()
                if event.id in told:
                    continue
                told.add(event.id)
                printer.print(event)
                request.since.FromSeconds(max(0, event.at.seconds - _OVERLAP_SECONDS))
            return True
        finally:
            # Whoever is asked next begins where this stream broke.
            if not request.HasField("since"):
                request.since.GetCurrentTime()

    await until_true(read)
