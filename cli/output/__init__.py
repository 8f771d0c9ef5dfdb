"""flota.cli.output: how answers look: tables, templates, JSON in the shape Docker's tools expect."""
