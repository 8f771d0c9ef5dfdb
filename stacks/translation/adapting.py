"""What a deploy takes over from what is there, and what of a network it cannot change."""

from __future__ import annotations

from flota.stacks.translation.back import own_labels
from flota.stacks.translation.names import IMAGE
from flota.v1.network_options import ENCRYPTED_OPTION
from flota.v1.specs_pb2 import NetworkSpec, ServiceSpec


def adapted(asked: ServiceSpec, stored: ServiceSpec, resolve_image: str) -> ServiceSpec:
    """`asked`, with what a file cannot say taken from what is there."""
    spec = ServiceSpec()
    spec.CopyFrom(asked)
    # Files have no force: what `service update --force` has counted stays.
    spec.task.force_update = stored.task.force_update
    same_image = stored.annotations.labels.get(IMAGE) == asked.annotations.labels[IMAGE]
    if resolve_image != "always" and same_image:
        # Somebody may have pinned the image to a digest; it stays as it was resolved then.
        spec.task.container.image = stored.task.container.image
    return spec


def network_differences(stored: NetworkSpec, asked: NetworkSpec) -> list[str]:
    """Keys of a file about which a network that is there says something else."""
    found = []
    stored_options, asked_options = dict(stored.driver.options), dict(asked.driver.options)
    if ENCRYPTED_OPTION not in asked_options:
        # The cluster decided it, when the network was made.
        stored_options.pop(ENCRYPTED_OPTION, None)
    if stored_options != asked_options:
        found.append("driver_opts")
    for field, word in (("internal", "internal"), ("attachable", "attachable"), ("ipv6_enabled", "enable_ipv6")):
        if getattr(stored, field) != getattr(asked, field):
            found.append(word)
    if list(stored.ipam) != list(asked.ipam):
        found.append("ipam")
    if own_labels(stored.annotations.labels) != own_labels(asked.annotations.labels):
        found.append("labels")
    return found
