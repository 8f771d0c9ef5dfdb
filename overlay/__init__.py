"""flota.overlay: what joins containers across nodes: VXLAN, bridges, addresses, names.

The worker uses `Network` (network.py) and the `Sandbox` it returns, nothing else of this package.
"""

from flota.overlay.errors import BadAddress, KernelRefused, NotAttached, OverlayError, UnknownNetwork
from flota.overlay.network import Network
from flota.overlay.sandbox import Sandbox

__all__ = ["BadAddress", "KernelRefused", "Network", "NotAttached", "OverlayError", "Sandbox", "UnknownNetwork"]
