"""The control API: what people and tools ask of the cluster (proto/flota/v1/control.proto).

`Control` (servicer.py) answers on the leader. Each kind of object has a module; what a spec may say is decided by pure
functions (`validation`, `task_validation`, `service_validation`), references between objects by `references`.
"""

from flota.manager.control.servicer import Control

__all__ = ["Control"]
