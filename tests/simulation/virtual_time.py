"""The virtual loop of `flota.simulation`, for tests."""

from flota.simulation.virtual_time import Deadlock, VirtualClock, VirtualLoop, run

__all__ = ["Deadlock", "VirtualClock", "VirtualLoop", "run"]
