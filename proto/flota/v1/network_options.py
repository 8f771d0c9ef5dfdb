"""The options of a network's driver, and what they mean."""

from flota.v1.specs_pb2 import NetworkSpec

MTU_OPTION = "com.docker.network.driver.mtu"
# As Docker has it: without a value, or with a truth.
ENCRYPTED_OPTION = "encrypted"
TRUE = ("", "true", "1")
FALSE = ("false", "0")


def is_encrypted(spec: NetworkSpec) -> bool:
    """Whether what tasks say to each other on this network is encrypted between nodes."""
    return spec.driver.options.get(ENCRYPTED_OPTION, "false").lower() in TRUE
