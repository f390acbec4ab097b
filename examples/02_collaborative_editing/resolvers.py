"""Decide on conflicts under `custom:both`: `refold resolver resolvers.py`."""

from typing import Any

import refold


@refold.resolver("both")
def both(_base: Any, head: Any, incoming: Any) -> Any:
    """Keep both titles. It is a pure function: where the document changes meanwhile, it is called again."""
    return {**head, "title": f"{head['title']} & {incoming['title']}"}
