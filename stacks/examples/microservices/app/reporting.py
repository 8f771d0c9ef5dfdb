"""Reporting: all results as CSV."""

import csv
import io
from typing import Any

from app.web import Text, ask, serve


def report(_: dict[str, Any]) -> Text:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "at", "price", "profit"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(ask("persistence", "/results"))
    return Text(out.getvalue())


if __name__ == "__main__":
    serve("reporting", {"GET /report.csv": report})
