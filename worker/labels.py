"""Which labels people ask for. Pure."""

from collections.abc import Mapping


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all that are wanted are there; an empty value accepts any."""
    return all(key in labels and value in ("", labels[key]) for key, value in wanted.items())
