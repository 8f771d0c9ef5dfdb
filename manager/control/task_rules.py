"""What a task's spec may say beside its container: resources, restarts, placement, networks, logging.

Pure; raises InvalidArgument, or Unsupported for what Docker has and flota has not. Limits and texts follow SwarmKit's
manager/controlapi.
"""

import ipaddress
import re
from collections.abc import Iterable

from flota.manager import constraint
from flota.manager.control.container_rules import check_container
from flota.manager.control.names import check_alias, check_duration
from flota.rpc.errors import InvalidArgument, Unsupported
from flota.v1.network_options import FALSE, STABLE_ADDRESS_OPTION, TRUE
from flota.v1.specs_pb2 import TaskSpec
from flota.v1.types_pb2 import (
    GenericResource,
    NetworkAttachmentConfig,
    Placement,
    PlacementStrategy,
    ResourceRequirements,
    Resources,
    RestartPolicy,
)

# 0.001 CPU and 4 MiB: below, the kernel's controllers do not work as one would expect.
MIN_NANO_CPUS = 1_000_000
MIN_MEMORY_BYTES = 4 << 20
_SPREAD = re.compile(r"(?:node|engine)\.labels\..+")
# Prefixes and words that a constraint's key can have and ever match.
_KNOWN_KEYS = frozenset(key for key in constraint.KEYS if not key.endswith(".KEY"))
_KNOWN_PREFIXES = tuple(f"{key.rpartition('.')[0]}." for key in constraint.KEYS if key.endswith((".KEY", ".NAME")))


def check_task(task: TaskSpec) -> None:
    """Everything but references, which need the store."""
    if not task.HasField("container"):
        raise InvalidArgument("the task has no container: an image must be named")
    check_container(task.container)
    check_resources(task.resources)
    check_restart(task.restart)
    check_placement(task.placement)
    if task.HasField("log_driver") and not task.log_driver.name and task.log_driver.options:
        raise InvalidArgument("log options are given without a log driver: name one, for example json-file")
    check_attachments(task.networks)


def check_resources(resources: ResourceRequirements) -> None:
    """Limits and reservations, each by itself and together."""
    _check_amounts("limit", resources.limits)
    _check_amounts("reservation", resources.reservations)
    limits, reserved = resources.limits, resources.reservations
    if limits.generic:
        raise InvalidArgument("generic resources cannot be limited, only reserved")
    _check_generic(reserved.generic)
    if limits.nano_cpus and reserved.nano_cpus > limits.nano_cpus:
        raise InvalidArgument.of(
            "CPU reservation", _cpus(reserved.nano_cpus), f"the limit is {_cpus(limits.nano_cpus)}; not more is allowed"
        )
    if limits.memory_bytes and reserved.memory_bytes > limits.memory_bytes:
        raise InvalidArgument.of(
            "memory reservation", reserved.memory_bytes, f"the limit is {limits.memory_bytes}; not more is allowed"
        )
    if resources.pids_limit < 0:
        raise InvalidArgument.of("process limit", resources.pids_limit, "0 (no limit) or more is allowed")
    if resources.cpu_shares or resources.cpuset_cpus or resources.cpuset_mems:
        raise InvalidArgument("cpu shares and sets of processors are for containers without a service only")
    swap = resources.memory_swap_bytes
    if swap < -1:
        raise InvalidArgument.of("memory and swap limit", swap, "allowed are bytes, 0 (default) and -1 (no limit)")
    if swap > 0 and not limits.memory_bytes:
        raise InvalidArgument.of("memory and swap limit", swap, "a memory limit is needed, too")
    if 0 < swap < limits.memory_bytes:
        raise InvalidArgument.of(
            "memory and swap limit", swap, f"it includes the memory limit of {limits.memory_bytes}; not less is allowed"
        )
    if resources.HasField("memory_swappiness") and not 0 <= resources.memory_swappiness <= 100:
        raise InvalidArgument.of("memory swappiness", resources.memory_swappiness, "allowed is 0 to 100")


def _check_amounts(word: str, amounts: Resources) -> None:
    if amounts.nano_cpus and amounts.nano_cpus < MIN_NANO_CPUS:
        raise InvalidArgument.of(f"CPU {word}", _cpus(amounts.nano_cpus), "at least 0.001 CPU is needed (0 = none)")
    if amounts.memory_bytes and amounts.memory_bytes < MIN_MEMORY_BYTES:
        raise InvalidArgument.of(f"memory {word}", amounts.memory_bytes, "at least 4 MiB are needed (0 = none)")


def _cpus(nano_cpus: int) -> float:
    return nano_cpus / 1e9


def _check_generic(generic: Iterable[GenericResource]) -> None:
    seen: set[str] = set()
    for resource in generic:
        if not resource.kind:
            raise InvalidArgument("a generic resource has no kind: write KIND=COUNT, for example gpu=2")
        if resource.name or resource.count <= 0:
            raise InvalidArgument.of(
                f"generic resource {resource.kind}", resource.name or resource.count,
                "a count of 1 or more is needed: services ask for a number of them, the scheduler chooses which",
            )  # fmt: skip
        if resource.kind in seen:
            raise InvalidArgument.of("generic resource", resource.kind, "it is given twice")
        seen.add(resource.kind)


def check_restart(restart: RestartPolicy) -> None:
    """A restart policy; an empty one is the default."""
    if restart.condition not in RestartPolicy.Condition.values():
        raise InvalidArgument.of("restart condition", restart.condition, "allowed are none, on-failure and any")
    check_duration("restart delay", restart.delay)
    check_duration("restart window", restart.window)


def check_placement(placement: Placement) -> None:
    """Constraints can be read, preferences name a label."""
    if placement.strategy not in PlacementStrategy.values():
        raise InvalidArgument.of("placement strategy", placement.strategy, "allowed are spread and binpack")
    for expression in placement.constraints:
        try:
            constraint.parse(expression)
        except constraint.ConstraintError as error:
            raise InvalidArgument(str(error)) from None
    for preference in placement.preferences:
        descriptor = preference.spread.descriptor
        if not _SPREAD.fullmatch(descriptor):
            raise InvalidArgument.of(
                "placement preference", descriptor, "allowed are spread=node.labels.KEY and spread=engine.labels.KEY"
            )


def unknown_keys(placement: Placement) -> list[str]:
    """Constraints that can be read but that no node will ever fulfil, because their key is not known."""
    found = []
    for expression in placement.constraints:
        key = constraint.parse(expression).key.lower()
        if key not in _KNOWN_KEYS and not key.startswith(_KNOWN_PREFIXES):
            found.append(expression)
    return found


def check_attachments(attachments: Iterable[NetworkAttachmentConfig]) -> None:
    """Networks a task is to be on, before their names are looked up."""
    for attachment in attachments:
        if not attachment.target:
            raise InvalidArgument("a network attachment names no network")
        for alias in attachment.aliases:
            check_alias("network alias", alias)
        for address in attachment.addresses:
            try:
                ipaddress.IPv4Address(address.partition("/")[0])
            except ValueError:
                raise InvalidArgument.of("network address", address, "an IPv4 address is needed") from None
        for option, value in attachment.driver_options.items():
            if option != STABLE_ADDRESS_OPTION:
                raise Unsupported(
                    f"option {option!r} of the attachment to network {attachment.target} is not supported: "
                    f"only {STABLE_ADDRESS_OPTION} is"
                )
            if value.lower() not in (*TRUE, *FALSE):
                raise InvalidArgument.of(f"option {option}", value, "no value, true or false is needed")
