"""Portal: the web page. Asks the optimizer, stores what it says, has the report mailed."""

from html import escape
from typing import Any

from app.web import Page, ask, serve, version

PAGE = """<!doctype html><meta charset="utf-8"><title>Best price</title>
<style>body{{font:16px/1.5 system-ui;max-width:40rem;margin:3rem auto;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{border-bottom:1px solid #ccc;padding:.2rem .8rem;text-align:right}}
input{{width:5rem}}</style>
<h1>Best price</h1>
<form action="/optimize">between <input name="low" value="5"> and <input name="high" value="30">
<button>find it</button></form>
<table><tr><th>run<th>when<th>price<th>profit a day</tr>{rows}</table>
<p><small>portal {version}</small></p>"""
ROW = "<tr><td>{id}<td>{at}<td>{price}<td>{profit}</tr>"


def page(_: dict[str, Any]) -> Page:
    rows = "".join(
        ROW.format(**{key: escape(str(value)) for key, value in result.items()})
        for result in ask("persistence", "/results")
    )
    return Page(PAGE.format(rows=rows, version=escape(version())))


def optimize(arguments: dict[str, Any]) -> Page:
    low, high = float(arguments["low"]), float(arguments["high"])
    ask("persistence", "/results", ask("optimizer", f"/optimize?low={low}&high={high}"))
    return page({})


def mail(arguments: dict[str, Any]) -> Any:
    return ask("notifier", "/notify", {"to": arguments["to"]})


if __name__ == "__main__":
    serve("portal", {"GET /": page, "GET /optimize": optimize, "POST /mail": mail})
