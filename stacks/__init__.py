"""flota.stacks: Compose files to specs."""
