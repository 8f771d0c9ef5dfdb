"""Calculator: what a price earns. Demand falls with the square of the price, every piece costs 4."""

from typing import Any

from app.web import serve


def profit(price: float) -> float:
    """Money earned in a day at this price."""
    demand = max(0.0, 1000 - 0.9 * price**2)
    return demand * (price - 4)


def calculate(arguments: dict[str, Any]) -> dict[str, float]:
    price = float(arguments["price"])
    return {"price": price, "profit": round(profit(price), 2)}


if __name__ == "__main__":
    serve("calculator", {"GET /calculate": calculate})
