"""Optimizer: the best price between two, by golden-section search over the calculator."""

from typing import Any

from app.web import ask, serve

GOLDEN = (5**0.5 - 1) / 2


def optimize(arguments: dict[str, Any]) -> dict[str, float]:
    low, high = float(arguments["low"]), float(arguments["high"])
    if not 0 <= low < high:
        raise ValueError(f"low must be smaller than high and not negative, not {low} and {high}")

    def earn(price: float) -> float:
        earned: float = ask("calculator", f"/calculate?price={price}")["profit"]
        return earned

    asked = 0
    while high - low > 0.01:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if earn(left) >= earn(right) else (left, high)
        asked += 2
    price = round((low + high) / 2, 2)
    return {"price": price, "profit": earn(price), "calculations": asked + 1}


if __name__ == "__main__":
    serve("optimizer", {"GET /optimize": optimize})
