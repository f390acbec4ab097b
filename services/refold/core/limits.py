"""The bounds that a rule set states, and those of store, projector and history, each with its unit.

The values of a rule set are in `refold.core.fold`: changing one could alter an outcome, so it needs a new number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# --- Bounds of a rule set ----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound that can alter an outcome. A fold number names them, and a genesis states them by these names."""

    depth: int
    """Nesting of a state: a scalar is 0, `[]` is 1, `[[]]` is 2."""
    operations: int
    """Operations of one patch."""
    state_bytes: int
    """Canonical bytes of a state, checked after every operation."""
    copy_bytes: int
    """Canonical bytes that one event's `copy` and `move` operations may carry in all."""
    shifts: int
    """Array elements that the insertions and removals of one event may push aside in all."""
    event_bytes: int
    """Body of one event."""
    headers_bytes: int
    """An author's headers: all whose names do not begin with `Nats-`."""
    text_depth: int
    """Nesting of an event's JSON text: more than a state may have, less than orjson can write (254)."""
    name_chars: int
    """A namespace or a document id."""
    id_chars: int
    """An event's own id."""
    id_window_ids: int
    """An id is looked up among so many of its document's last events that carried one."""
    id_window_events: int
    """An id is looked up within so many of its document's last events of any kind."""
    occurred_ahead_nanoseconds: int
    """`occurred_at` may be this far after recorded time."""


UNBOUNDED: Final = Limits(**dict.fromkeys(Limits.__dataclass_fields__, 2**62))
"""For events that were accepted once, whatever the rules were: their changes apply again."""
