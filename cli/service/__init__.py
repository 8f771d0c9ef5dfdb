"""flota.cli.service: from the flags of `service create` and `service update` to a spec. Pure: no network, no files."""
