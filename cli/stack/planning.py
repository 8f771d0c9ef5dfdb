"""Shows what a deploy would do, for people or as JSON or YAML. The exit status is 2 when it would do anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from flota.cli.colours import wanted
from flota.cli.image_pins import pin_all
from flota.cli.output.objects import print_data
from flota.cli.stack.fingerprint import same_secret
from flota.cli.stack.inventory import inventory, tasks_of

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.stacks.plan import Action, Change, Plan, Step
    from flota.stacks.translation.stack import Stack

CHANGES = 2
_SIGNS = {"create": "+", "change": "~", "remove": "-", "refuse": "!", "keep": "·"}
_COLOURS = {"create": "green", "change": "yellow", "remove": "red", "refuse": "red", "keep": "bright_black"}
_LONGEST = 200


async def show_plan(
    session: Session, stack: Stack, prune: bool, resolve_image: str, form: str | None, objects: bool = True
) -> None:
    """Print what deploying `stack` would do. Raises click's Exit with status 2 when that is anything at all.

    With `prune`, but without `objects`, only services are removed.
    """
    made = await plan_of(session, stack, prune, resolve_image)
    if not objects:
        made = replace(
            made, steps=tuple(each for each in made.steps if each.action != "remove" or each.kind == "service")
        )
    if form is not None:
        print_data(as_data(made), form)
    else:
        colour = wanted()
        for line in lines(made):
            click.echo(line, color=colour)
    if made.changes:
        raise click.exceptions.Exit(CHANGES)


async def plan_of(session: Session, stack: Stack, prune: bool, resolve_image: str) -> Plan:
    """The plan, from what there is in the cluster."""
    from flota.stacks.plan import There, plan
    from flota.v1.control_pb2 import ListNetworksRequest
    from flota.v1.task_states import is_wanted

    there = await inventory(session, stack.name)
    tasks = await tasks_of(session, [service.id for service in there.services.values()])
    wanted_of = Counter(task.service_id for task in tasks if is_wanted(task))
    for warning in await pin_all(session, stack.services, there.services, resolve_image):
        click.echo(f"Warning: {warning}", err=True)
    networks = (await session.control.ListNetworks(ListNetworksRequest())).networks
    everything = There(
        there.services,
        there.networks,
        there.secrets,
        there.configs,
        {network.id: network for network in networks},
        {name: wanted_of[service.id] for name, service in there.services.items()},
    )
    return await asyncio.to_thread(
        plan, stack, everything, prune=prune, resolve_image=resolve_image, same_secret=same_secret
    )


def lines(plan: Plan) -> Iterable[str]:
    """The plan for people."""
    shown = [step for step in plan.steps if step.action != "same"]
    if not plan.changes:
        yield f"No changes: stack {plan.stack} is what the files say."
    else:
        yield f"Stack {plan.stack}: {_summary(plan)}"
    for step in shown:
        colour = _COLOURS[step.action]
        head = f"{_SIGNS[step.action]} {step.kind} {step.name}"
        notes = [_of_tasks(step)] if step.restarts or step.tasks else []
        notes += [step.note] if step.note else []
        yield click.style(head, fg=colour) + (f"  ({'; '.join(notes)})" if notes else "")
        if step.action != "create" or step.kind == "service":
            yield from (f"    {_change(each)}" for each in step.changes)


def _summary(plan: Plan) -> str:
    counts = Counter(step.action for step in plan.changes)
    words: tuple[tuple[Action, str], ...] = (
        ("create", "to create"),
        ("change", "to change"),
        ("remove", "to remove"),
        ("refuse", "refused"),
    )
    text = ", ".join(f"{counts[action]} {word}" for action, word in words if counts[action])
    replaced = [step for step in plan.changes if step.restarts]
    if not replaced:
        return text
    services = f"{len(replaced)} {'service' if len(replaced) == 1 else 'services'}"
    return f"{text}; {_tasks(sum(step.tasks for step in replaced))} of {services} are replaced"


def _of_tasks(step: Step) -> str:
    if step.action == "remove":
        return f"its {_tasks(step.tasks)} {'stops' if step.tasks == 1 else 'stop'}"
    return f"its {_tasks(step.tasks)} {'is' if step.tasks == 1 else 'are'} replaced"


def _tasks(count: int) -> str:
    return f"{count or ''} {'task' if count == 1 else 'tasks'}".lstrip()


def _change(change: Change) -> str:
    if change.old is None:
        return click.style(f"+ {change.key}: {_short(change.new or '')}", fg="green")
    if change.new is None:
        return click.style(f"- {change.key}: {_short(change.old)}", fg="red")
    return f"{click.style(f'~ {change.key}:', fg='yellow')} {_short(change.old)} → {_short(change.new)}"


def _short(text: str) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def as_data(plan: Plan) -> dict[str, object]:
    """The plan for programs: every step, also those that do nothing."""
    return {"stack": plan.stack, "changes": len(plan.changes), "steps": [_step(step) for step in plan.steps]}


def _step(step: Step) -> dict[str, object]:
    return {
        "kind": step.kind,
        "name": step.name,
        "action": step.action,
        "restarts": step.restarts,
        "tasks": step.tasks,
        "note": step.note,
        "changes": [{"key": each.key, "old": each.old, "new": each.new} for each in step.changes],
    }
