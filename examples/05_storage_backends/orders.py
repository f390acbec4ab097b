"""A shop: small orders that take a few steps, and a few warehouses of which every movement is an event."""

from collections.abc import Iterator
from random import Random
from typing import Any

NAMESPACE = "shop"
ORDERS, WAREHOUSES, MOVEMENTS = 300, 4, 450
CANARY = "canary-5f2c81"
"""A word to search for on disk. It is in a small document, which no compression touches."""

_NAMES = ("Ann", "Ben", "Carla", "Dan", "Edith", "Femi", "Grace", "Hugo", "Ines", "Jonas", "Kemal", "Lucia")
_TOWNS = ("Porto", "Lisbon", "Ghent", "Lyon", "Turin", "Vienna", "Malmö", "Gdańsk", "Cork", "Leeds", "Basel")
_THINGS = ("teapot", "kettle", "mug", "saucer", "spoon", "tray", "strainer", "tin", "cosy", "whisk")
_STEPS = ("paid", "packed", "shipped", "delivered")


def events() -> Iterator[list[dict[str, Any]]]:
    """Yield events in batches: orders are placed and take one step after the other; then goods are moved."""
    chance = Random(5)  # noqa: S311 - not a secret.
    orders = range(ORDERS)
    yield [{"doc": "note", "put": {"text": CANARY}, "type": "note.written"}]
    yield [{"doc": name(number), "put": _order(number, chance), "type": "order.placed"} for number in orders]
    for step in _STEPS:
        yield [
            {"doc": name(number), "patch": _change(step, chance), "type": f"order.{step}"}
            for number in orders
        ]
    for warehouse in range(WAREHOUSES):
        stock = {f"{thing}-{size}": 100 for thing in _THINGS for size in "sml"}
        yield [
            {"doc": f"warehouse-{warehouse}", "put": {"stock": stock, "last": {}}, "type": "stock.counted"}
        ]
        yield [
            {"doc": f"warehouse-{warehouse}", "patch": _movement(chance), "type": "stock.moved"}
            for _ in range(MOVEMENTS)
        ]


def name(number: int) -> str:
    """Return the id of an order."""
    return f"order-{number:04}"


def _order(number: int, chance: Random) -> dict[str, Any]:
    customer, town = chance.choice(_NAMES), chance.choice(_TOWNS)
    lines = [
        {
            "article": f"{chance.choice(_THINGS)}-{chance.choice('sml')}",
            "quantity": chance.randint(1, 6),
            "price_cents": chance.randrange(290, 8_900, 10),
            "is_gift": chance.random() < 0.1,
        }
        for _ in range(chance.randint(2, 10))
    ]
    return {
        "order": number,
        "status": "placed",
        "customer": {
            "name": f"{customer} {chance.choice(_NAMES)}son",
            "email": f"{customer.lower()}{chance.randrange(10_000)}@example.org",
            "address": {"street": f"Market Street {chance.randrange(200)}", "town": town, "country": "EU"},
        },
        "lines": lines,
        "payment": {"method": chance.choice(["card", "invoice", "transfer"]), "is_paid": False},
        "track": [],
    }


def _change(step: str, chance: Random) -> list[dict[str, Any]]:
    parcel = {"step": step, "by": chance.choice(_NAMES), "parcel": f"{chance.randrange(16**12):012x}"}
    changes: list[dict[str, Any]] = [
        {"op": "replace", "path": "/status", "value": step},
        {"op": "add", "path": "/track/-", "value": parcel},
    ]
    if step == "paid":
        changes.append({"op": "replace", "path": "/payment/is_paid", "value": True})
    return changes


def _movement(chance: Random) -> list[dict[str, Any]]:
    article, count = f"{chance.choice(_THINGS)}-{chance.choice('sml')}", chance.randint(1, 9)
    last = {
        "article": article,
        "count": count,
        "order": name(chance.randrange(ORDERS)),
        "by": chance.choice(_NAMES),
    }
    return [
        {"op": "inc", "path": f"/stock/{article}", "inc": -count},
        {"op": "replace", "path": "/last", "value": last},
    ]
