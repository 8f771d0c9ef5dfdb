"""The options of a network's driver, and what they mean."""

from flota.v1.specs_pb2 import ClusterSpec, NetworkSpec
from flota.v1.types_pb2 import NetworkAttachmentConfig

MTU_OPTION = "com.docker.network.driver.mtu"
# As Docker has it: without a value, or with a truth.
ENCRYPTED_OPTION = "encrypted"
# Of an attachment: each slot of the service keeps its address there.
STABLE_ADDRESS_OPTION = "stable-address"
TRUE = ("", "true", "1")
FALSE = ("false", "0")

# Networks that are there on every node without anybody making them. They are called by these names, also as ids.
HOST, NONE, BRIDGE = "host", "none", "bridge"
PREDEFINED = (BRIDGE, HOST, NONE)


def is_local(spec: NetworkSpec) -> bool:
    """Whether it is a network of one node alone."""
    return spec.driver.name == BRIDGE


def is_encrypted(spec: NetworkSpec) -> bool:
    """Whether what tasks say to each other on this network is encrypted between nodes."""
    return spec.driver.options.get(ENCRYPTED_OPTION, "false").lower() in TRUE


def apply_default(spec: NetworkSpec, cluster: ClusterSpec) -> None:
    """Have a new network encrypted if the cluster's are, unless it says whether it is to be."""
    if cluster.encryption.encrypt_networks:
        spec.driver.options.setdefault(ENCRYPTED_OPTION, "")


def keeps_address(attachment: NetworkAttachmentConfig) -> bool:
    """Whether addresses on this network belong to the service's slots rather than to tasks that come and go."""
    stable = attachment.driver_options.get(STABLE_ADDRESS_OPTION, "false").lower() in TRUE
    return stable or bool(attachment.addresses)
