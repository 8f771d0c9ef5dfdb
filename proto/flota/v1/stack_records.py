"""Configs that are the past of a stack, or whose turn it is to deploy it: nothing mounts them, lists leave them out."""

from flota.v1.objects_pb2 import Config

RECORD = "flota.stack.record"


def is_record(config: Config) -> bool:
    """Whether a config is one of these."""
    return RECORD in config.spec.annotations.labels
