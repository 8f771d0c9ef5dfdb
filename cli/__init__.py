"""flota.cli: the flota command."""
