"""An event's outcome as its author sees it, read back from what the store keeps.

Used by `refold.history.History`; the projector's notice of the same event is the same, member by member.
"""

from __future__ import annotations

from refold.core.canonical import Json
from refold.core.envelope import open_envelope
from refold.core.errors import Refused
from refold.core.fold import NEWEST
from refold.core.outcome import Entry
from refold.core.timestamp import format_time


def outcome_view(namespace: str, document: str, entry: Entry, first: Entry | None) -> dict[str, Json]:
    """Show an entry's outcome; `first` is the entry that a duplicate repeats."""
    view: dict[str, Json] = {
        "namespace": namespace,
        "document": document,
        "id": event_id_of(entry),
        **_core(entry),
    }
    if entry.status.is_effective:
        view["occurred_at"] = format_time(entry.occurred_at)
    if entry.detail:
        view["detail"] = entry.detail
    if first is not None:
        view["first"] = _core(first)
    return view


def event_id_of(entry: Entry) -> str | None:
    """Return the id that an event carried; None where it had none that is valid."""
    try:
        return open_envelope(entry.headers, entry.body, NEWEST.limits).id
    except Refused:
        return None


def _core(entry: Entry) -> dict[str, Json]:
    view: dict[str, Json] = {
        "status": entry.status.name,
        "version": entry.version,
        "sequence": entry.sequence,
        "recorded_at": format_time(entry.recorded_at),
        "created": entry.is_creation,
    }
    return view | ({"reason": entry.reason} if entry.reason else {})
