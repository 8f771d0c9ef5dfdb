"""A whole cluster on one machine: each node a network and mount namespace with a daemon of its own."""

from flota.node.lab.errors import LabError, NoSuchLab
from flota.node.lab.lab import Lab, LabNode

__all__ = ["Lab", "LabError", "LabNode", "NoSuchLab"]
