"""The options of a network's driver, and what they mean."""

from flota.v1.specs_pb2 import ClusterSpec, NetworkSpec

MTU_OPTION = "com.docker.network.driver.mtu"
# As Docker has it: without a value, or with a truth.
ENCRYPTED_OPTION = "encrypted"
TRUE = ("", "true", "1")
FALSE = ("false", "0")


def is_encrypted(spec: NetworkSpec) -> bool:
    """Whether what tasks say to each other on this network is encrypted between nodes."""
    return spec.driver.options.get(ENCRYPTED_OPTION, "false").lower() in TRUE


def apply_default(spec: NetworkSpec, cluster: ClusterSpec) -> None:
    """Have a new network encrypted if the cluster's are, unless it says whether it is to be."""
    if cluster.encryption.encrypt_networks:
        spec.driver.options.setdefault(ENCRYPTED_OPTION, "")
