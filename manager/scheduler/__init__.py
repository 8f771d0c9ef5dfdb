"""Where it runs: filters, placement preferences, ranking; pure."""
