"""Points in time as people give them to filters."""

from __future__ import annotations

import time

from flota.cli.failures import BadFlag


def moment(text: str) -> float:
    """Seconds since 1970 of a time, or of so long ago."""
    from datetime import datetime

    from flota.stacks.errors import BadValue
    from flota.stacks.units import NANO, parse_duration

    try:
        return time.time() - parse_duration(text, days=True) / NANO
    except BadValue:
        pass
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise BadFlag(
            f"invalid --filter {f'until={text}'!r}: a duration such as 24h, or a time such as 2026-01-31T12:00:00Z, "
            "is needed"
        ) from None
