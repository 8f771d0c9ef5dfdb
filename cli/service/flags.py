"""Flags of `service create` to a new spec; an old spec and flags of `service update` to a changed one.

Both are pure; flags are a mapping from names (as click has them) to values, and what was not given is None or empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flota.cli.failures import BadFlag
from flota.cli.service.lists import change_lists
from flota.cli.service.scalars import choice, read_flag, set_scalars
from flota.cli.service.values import words
from flota.stacks.errors import did_you_mean
from flota.stacks.extension import HEALTH_ACTIONS
from flota.stacks.units import duration_message, parse_duration
from flota.v1.specs_pb2 import ServiceSpec

MODES = ("replicated", "global", "replicated-job", "global-job")

# `service create --env` is what `service update --env-add` is.
LISTS = (
    *(
        "config",
        "constraint",
        "container_label",
        "depends_on",
        "device",
        "dns",
        "dns_option",
        "dns_search",
        "env",
        "generic_resource",
    ),
    *("group", "host", "label", "mount", "network", "placement_pref", "publish", "secret", "sysctl", "ulimit"),
)


def spec_of_flags(image: str, arguments: Sequence[str], flags: Mapping[str, Any], warnings: list[str]) -> ServiceSpec:
    """A new service's spec. Raises BadFlag; what is only odd goes to `warnings`."""
    spec = ServiceSpec()
    given = {f"{name}_add" if name in LISTS else name: value for name, value in flags.items()} | {"creating": True}
    _set_mode(spec, given)
    spec.task.container.image = image
    spec.task.container.args.extend(arguments)
    _change(spec, given, {}, warnings)
    return spec


def changed_spec(
    old: ServiceSpec, flags: Mapping[str, Any], network_ids: Mapping[str, str], warnings: list[str]
) -> ServiceSpec:
    """`old` with the flags' changes. Raises BadFlag. `network_ids` maps names of networks to their ids."""
    spec = ServiceSpec()
    spec.CopyFrom(old)
    if flags.get("args") is not None:
        del spec.task.container.args[:]
        spec.task.container.args.extend(read_flag("args", words, flags["args"]))
    _change_count(spec, flags)
    _change(spec, flags, network_ids, warnings)
    if flags.get("force"):
        spec.task.force_update += 1
    return spec


def _change(spec: ServiceSpec, flags: Mapping[str, Any], network_ids: Mapping[str, str], warnings: list[str]) -> None:
    set_scalars(spec, flags)
    if flags.get("entrypoint") is not None:
        del spec.task.container.command[:]
        spec.task.container.command.extend(read_flag("entrypoint", words, flags["entrypoint"]))
    change_lists(spec, flags, network_ids, warnings)
    _change_health(spec, flags)


def _set_mode(spec: ServiceSpec, flags: Mapping[str, Any]) -> None:
    mode = str(flags.get("mode") or "replicated").lower()
    replicas, concurrent = flags.get("replicas"), flags.get("max_concurrent")
    if mode not in MODES:
        raise BadFlag(f"invalid --mode {mode!r}: one of {', '.join(MODES)} is needed{did_you_mean(mode, MODES)}")
    for name, value in (("replicas", replicas), ("max-concurrent", concurrent)):
        if value is not None and value < 0:
            raise BadFlag(f"invalid --{name} {value}: it cannot be negative")
    if replicas is not None and mode not in ("replicated", "replicated-job"):
        raise BadFlag(f"--replicas can only be used with --mode replicated or replicated-job, not {mode}")
    if concurrent is not None and mode != "replicated-job":
        raise BadFlag(f"--max-concurrent can only be used with --mode replicated-job, not {mode}")
    match mode:
        case "replicated":
            spec.replicated.replicas = 1 if replicas is None else replicas
        case "global":
            getattr(spec, "global").SetInParent()
        case "replicated-job":
            total = 1 if replicas is None else replicas
            spec.replicated_job.total_completions = total
            spec.replicated_job.max_concurrent = total if concurrent is None else concurrent
        case "global-job":
            spec.global_job.SetInParent()


def _change_count(spec: ServiceSpec, flags: Mapping[str, Any]) -> None:
    replicas, concurrent = flags.get("replicas"), flags.get("max_concurrent")
    mode = spec.WhichOneof("mode") or "replicated"
    if replicas is not None:
        set_replicas(spec, replicas)
    if concurrent is not None:
        if mode != "replicated_job":
            raise BadFlag("--max-concurrent can only be used with replicated-job mode")
        spec.replicated_job.max_concurrent = concurrent


def set_replicas(spec: ServiceSpec, replicas: int) -> None:
    """Scale a spec. Raises BadFlag when its mode has no replicas."""
    if replicas < 0:
        raise BadFlag(f"invalid number of replicas {replicas}: it cannot be negative")
    mode = spec.WhichOneof("mode") or "replicated"
    if mode == "replicated":
        spec.replicated.replicas = replicas
    elif mode == "replicated_job":
        spec.replicated_job.total_completions = replicas
    else:
        raise BadFlag(f"scale can only be used with replicated or replicated-job mode, not {mode.replace('_', '-')}")


def _change_health(spec: ServiceSpec, flags: Mapping[str, Any]) -> None:
    durations = ("health_interval", "health_timeout", "health_start_period", "health_start_interval")
    given = [
        name for name in ("health_cmd", "health_retries", "health_action", *durations) if flags.get(name) is not None
    ]
    check = spec.task.container.healthcheck
    if flags.get("no_healthcheck"):
        if given:
            raise BadFlag(f"--no-healthcheck conflicts with --{given[0].replace('_', '-')}")
        check.Clear()
        check.test.append("NONE")
        return
    if not given:
        return
    if check.test and check.test[0] == "NONE":
        check.Clear()
    if flags.get("health_cmd") is not None:
        del check.test[:]
        if flags["health_cmd"]:
            check.test.extend(["CMD-SHELL", flags["health_cmd"]])
    if flags.get("health_retries") is not None:
        if flags["health_retries"] < 0:
            raise BadFlag(f"invalid --health-retries {flags['health_retries']}: it cannot be negative")
        check.retries = flags["health_retries"]
    if flags.get("health_action") is not None:
        check.action = read_flag("health_action", choice(HEALTH_ACTIONS), flags["health_action"])
    for name in durations:
        if flags.get(name) is not None:
            duration = duration_message(read_flag(name, parse_duration, flags[name]))
            getattr(check, name.removeprefix("health_")).CopyFrom(duration)
