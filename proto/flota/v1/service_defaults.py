"""Writes Docker's defaults into a service's spec where the user said nothing. Pure.

So that everybody who reads a stored spec sees what counts, and two specs that mean the same are equal.
"""

from google.protobuf.duration_pb2 import Duration

from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import UpdateConfig

STOP_GRACE_SECONDS = 10
RESTART_DELAY_SECONDS = 5
MONITOR_SECONDS = 5
PARALLELISM = 1


def with_defaults(asked: ServiceSpec) -> ServiceSpec:
    """A copy of `asked` with the defaults written out."""
    spec = ServiceSpec()
    spec.CopyFrom(asked)
    mode = spec.WhichOneof("mode") or "replicated"
    if mode == "replicated":
        spec.replicated.replicas = spec.replicated.replicas if spec.replicated.HasField("replicas") else 1
        _fill_update(spec, "update")
        _fill_update(spec, "rollback")
    elif mode == "global":
        _fill_update(spec, "update")
        _fill_update(spec, "rollback")
    elif mode == "replicated_job":
        job = spec.replicated_job
        job.total_completions = job.total_completions or job.max_concurrent or 1
        job.max_concurrent = min(job.max_concurrent or job.total_completions, job.total_completions)
    _fill_duration(spec.task.restart, "delay", RESTART_DELAY_SECONDS)
    _fill_duration(spec.task.container, "stop_grace_period", STOP_GRACE_SECONDS)
    return spec


def _fill_update(spec: ServiceSpec, word: str) -> None:
    config: UpdateConfig = getattr(spec, word)
    if not spec.HasField(word):  # type: ignore[arg-type]
        config.parallelism = PARALLELISM
    _fill_duration(config, "monitor", MONITOR_SECONDS)


def _fill_duration(message: object, field: str, seconds: int) -> None:
    if not message.HasField(field):  # type: ignore[attr-defined]
        getattr(message, field).CopyFrom(Duration(seconds=seconds))
