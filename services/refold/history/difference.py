"""The patch between two states of one document, either of which may be absent.

Used by `refold.history.History`; pure.
"""

from __future__ import annotations

from refold.core.diff import diff
from refold.core.json_text import Json, loads


def difference(before: bytes | None, after: bytes | None) -> list[Json]:
    """Return a patch in canonical states: `add ""` from absence, `remove ""` into it."""
    if before == after:
        return []
    if after is None:
        return [{"op": "remove", "path": ""}]
    if before is None:
        return [{"op": "add", "path": "", "value": loads(after)}]
    return list(diff(loads(before), loads(after)))
