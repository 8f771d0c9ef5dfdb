"""Persistence: remembers every result in SQLite, in a volume if there is one at /data."""

import os
import sqlite3
import threading
from typing import Any

from app.web import serve

_lock = threading.Lock()


def connect() -> sqlite3.Connection:
    folder = os.environ.get("DATA", "/data")
    os.makedirs(folder, exist_ok=True)
    database = sqlite3.connect(os.path.join(folder, "results.db"), check_same_thread=False)
    database.execute("create table if not exists result (id integer primary key, at text, price real, profit real)")
    return database


def main() -> None:
    database = connect()

    def save(arguments: dict[str, Any]) -> dict[str, int | None]:
        row = (float(arguments["price"]), float(arguments["profit"]))
        with _lock, database:
            cursor = database.execute("insert into result (at, price, profit) values (datetime(), ?, ?)", row)
        return {"id": cursor.lastrowid}

    def results(_: dict[str, Any]) -> list[dict[str, Any]]:
        with _lock:
            rows = database.execute("select id, at, price, profit from result order by id").fetchall()
        return [dict(zip(("id", "at", "price", "profit"), row, strict=True)) for row in rows]

    serve("persistence", {"POST /results": save, "GET /results": results})


if __name__ == "__main__":
    main()
