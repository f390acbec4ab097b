"""What the scenes print, and the document that they share."""

from typing import Final

TRIP: Final = ("trips", "lisbon")
"""Namespace and id of the document."""


def say(title: str, *lines: str) -> None:
    """Print a title, and lines below it."""
    if title:
        print(f"\n▸ {title}")
    for line in lines:
        print(f"  {line}")
