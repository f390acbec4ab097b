"""A refused event as its document's rejections show it.

Used by `refold.history.History`; pure.
"""

from __future__ import annotations

from refold.core.canonical import Json, loads
from refold.core.timestamp import format_time
from refold.store import Rejection


def rejection_view(rejection: Rejection) -> dict[str, Json]:
    """Show a rejection and what its author said of the event, as far as it could be read."""
    about = loads(rejection.about)
    return {
        "sequence": rejection.sequence,
        "recorded_at": format_time(rejection.recorded_at),
        "reason": rejection.reason,
        "detail": rejection.detail,
        "id": about.get("id"),
        "actor": about.get("actor"),
        "type": about.get("type"),
    }
