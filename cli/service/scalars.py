"""Flags that set one field: which field of the spec, and how the value is read.

`set_scalars` walks one table; a flag that was not given changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration

from flota.cli.failures import BadFlag
from flota.stacks.errors import BadValue, did_you_mean
from flota.stacks.extension import REBALANCE, STRATEGIES
from flota.stacks.units import duration_message, parse_cpus, parse_duration, parse_size
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import RestartPolicy, UpdateConfig

Reader = Callable[[Any], Any]


def _duration(text: str) -> Duration:
    return duration_message(parse_duration(text))


def _swap(text: str) -> int:
    return -1 if text == "-1" else parse_size(text)


def choice(values: Mapping[str, int]) -> Reader:
    """Reads one of some words."""

    def read(text: str) -> int:
        if text.lower() not in values:
            raise BadValue(text, f"one of {', '.join(values)} is needed{did_you_mean(text, values)}")
        return values[text.lower()]

    return read


def _ratio(value: float) -> float:
    if not 0 <= value <= 1:
        raise BadValue(value, "a share from 0 to 1 is needed")
    return value


def _same(value: Any) -> Any:
    return value


def _not_negative(value: int) -> int:
    if value < 0:
        raise BadValue(value, "it cannot be negative")
    return value


def _swappiness(value: int) -> int | None:
    if value == -1:
        return None
    if not 0 <= value <= 100:
        raise BadValue(value, "0 to 100 is needed, or -1 for the kernel's default")
    return value


_CONDITIONS = {
    "none": RestartPolicy.CONDITION_NONE,
    "on-failure": RestartPolicy.CONDITION_ON_FAILURE,
    "any": RestartPolicy.CONDITION_ANY,
}
_UPDATE_ACTIONS = {
    "pause": UpdateConfig.FAILURE_ACTION_PAUSE,
    "continue": UpdateConfig.FAILURE_ACTION_CONTINUE,
    "rollback": UpdateConfig.FAILURE_ACTION_ROLLBACK,
}
_ROLLBACK_ACTIONS = {key: value for key, value in _UPDATE_ACTIONS.items() if key != "rollback"}
_ORDERS = {"stop-first": UpdateConfig.ORDER_STOP_FIRST, "start-first": UpdateConfig.ORDER_START_FIRST}

_CONTAINER = "task.container"
_RESOURCES = "task.resources"

SCALARS: dict[str, tuple[str, Reader]] = {
    "name": ("annotations.name", _same),
    "image": (f"{_CONTAINER}.image", _same),
    "hostname": (f"{_CONTAINER}.hostname", _same),
    "workdir": (f"{_CONTAINER}.dir", _same),
    "user": (f"{_CONTAINER}.user", _same),
    "tty": (f"{_CONTAINER}.tty", _same),
    "stdin": (f"{_CONTAINER}.open_stdin", _same),
    "read_only": (f"{_CONTAINER}.read_only", _same),
    "init": (f"{_CONTAINER}.init", _same),
    "no_new_privileges": (f"{_CONTAINER}.no_new_privileges", _same),
    "seccomp": (f"{_CONTAINER}.seccomp_unconfined", choice({"default": False, "unconfined": True})),
    "stop_signal": (f"{_CONTAINER}.stop_signal", _same),
    "stop_grace_period": (f"{_CONTAINER}.stop_grace_period", _duration),
    "oom_score_adj": (f"{_CONTAINER}.oom_score_adj", _same),
    "limit_cpu": (f"{_RESOURCES}.limits.nano_cpus", parse_cpus),
    "limit_memory": (f"{_RESOURCES}.limits.memory_bytes", parse_size),
    "limit_pids": (f"{_RESOURCES}.pids_limit", _not_negative),
    "reserve_cpu": (f"{_RESOURCES}.reservations.nano_cpus", parse_cpus),
    "reserve_memory": (f"{_RESOURCES}.reservations.memory_bytes", parse_size),
    "memory_swap": (f"{_RESOURCES}.memory_swap_bytes", _swap),
    "memory_swappiness": (f"{_RESOURCES}.memory_swappiness", _swappiness),
    "replicas_max_per_node": ("task.placement.max_replicas", _not_negative),
    "restart_condition": ("task.restart.condition", choice(_CONDITIONS)),
    "restart_delay": ("task.restart.delay", _duration),
    "restart_max_attempts": ("task.restart.max_attempts", _not_negative),
    "restart_window": ("task.restart.window", _duration),
    "log_driver": ("task.log_driver.name", _same),
    "rebalance": ("rebalance", choice(REBALANCE)),
    "strategy": ("task.placement.strategy", choice(STRATEGIES)),
    "endpoint_mode": ("endpoint.mode", choice({"vip": 0, "dnsrr": 1})),
}
for _phase, _actions in (("update", _UPDATE_ACTIONS), ("rollback", _ROLLBACK_ACTIONS)):
    SCALARS |= {
        f"{_phase}_parallelism": (f"{_phase}.parallelism", _not_negative),
        f"{_phase}_delay": (f"{_phase}.delay", _duration),
        f"{_phase}_failure_action": (f"{_phase}.failure_action", choice(_actions)),
        f"{_phase}_max_failure_ratio": (f"{_phase}.max_failure_ratio", _ratio),
        f"{_phase}_monitor": (f"{_phase}.monitor", _duration),
        f"{_phase}_order": (f"{_phase}.order", choice(_ORDERS)),
    }


def set_scalars(spec: ServiceSpec, flags: Mapping[str, Any]) -> None:
    """Set the fields whose flags were given. Raises BadFlag."""
    for phase in ("update", "rollback"):
        # Within a message that is there, 0 means all at once; a person who did not say so means one.
        if not spec.HasField(phase) and any(flags.get(name) is not None for name in SCALARS if _of(name, phase)):
            getattr(spec, phase).parallelism = 1
    for name, (path, read) in SCALARS.items():
        if flags.get(name) is not None:
            _set(spec, path, read_flag(name, read, flags[name]))


def _of(name: str, phase: str) -> bool:
    return SCALARS[name][0].startswith(f"{phase}.")


def read_flag(name: str, read: Callable[[Any], Any], value: Any) -> Any:
    """read(value), with the flag's name in the error."""
    try:
        return read(value)
    except BadValue as error:
        raise BadFlag(error.of(f"--{name.replace('_', '-')}")) from None


def _set(message: Any, path: str, value: Any) -> None:
    *parents, field = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    if value is None:
        message.ClearField(field)
    elif isinstance(value, Duration):
        getattr(message, field).CopyFrom(value)
    else:
        setattr(message, field, value)
