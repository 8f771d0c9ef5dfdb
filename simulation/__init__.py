"""The cluster's own decisions on virtual time, with nodes that only pretend: `flota simulate`."""
