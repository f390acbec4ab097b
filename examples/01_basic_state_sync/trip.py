"""The document that the scenes share."""

from typing import Final

TRIP: Final = ("trips", "lisbon")
"""Its namespace and id."""

STATE: Final = {
    "title": "Lisbon",
    "stops": ["Belém"],
    "budget": {"total": 900, "spent": 0},
    "travellers": {"ann": {"online": True}, "ben": {"online": False}},
}
