"""The shapes of outcomes, changes and rejections, as people and other programs see them.

Notices, HTTP responses and history have no other shapes of their own.
"""

from __future__ import annotations

from typing import Any

from refold.core import json_text
from refold.core.document import First, Status
from refold.core.fold.rules import Step
from refold.core.history import Entry
from refold.core.json_text import Json
from refold.core.stream import Route
from refold.core.timestamp import format_time


def outcome_view(
    namespace: str, document: str, entry: Entry, *, event_id: str | None, first: First | Entry | None
) -> dict[str, Json]:
    """Return the outcome of a document's event; `first` is what a duplicate repeats."""
    view = {"namespace": namespace, "document": document, "id": event_id, **_facts(entry)}
    if entry.status.is_effective:
        view["occurred_at"] = format_time(entry.occurred_at)
    if entry.detail:
        view["detail"] = entry.detail
    if first is not None:
        view["first"] = _facts(first)
    return view


def step_view(where: Route, step: Step) -> dict[str, Json]:
    """Return the outcome of an event that was just folded."""
    return outcome_view(where.namespace, where.document, step.entry, event_id=step.event_id, first=step.first)


def unroutable_view(sequence: int, recorded_at: int, reason: str, detail: str) -> dict[str, Json]:
    """Return the outcome of an event whose names make no document."""
    return {
        "namespace": "",
        "document": "",
        "id": None,
        "status": Status.rejected.name,
        "version": 0,
        "sequence": sequence,
        "recorded_at": format_time(recorded_at),
        "created": False,
        "reason": reason,
        "detail": detail,
    }


def change_view(entry: Entry, patch: list[Json], fields: dict[str, Any]) -> dict[str, Json]:
    """Return an effective event as a change; `fields` are those of the event as it was published."""
    recorded = format_time(entry.recorded_at)
    is_now = entry.occurred_at == entry.recorded_at
    return {
        "version": entry.version,
        "sequence": entry.sequence,
        "recorded_at": recorded,
        "occurred_at": recorded if is_now else format_time(entry.occurred_at),
        **{name: fields.get(name) for name in ("type", "actor", "id")},
        "patch": patch,
    }


def rejection_view(
    sequence: int, recorded_at: int, reason: str, detail: str, about: bytes
) -> dict[str, Json]:
    """Return a rejection; `about` is JSON of what could be read of the event (`id`, `actor`, `type`)."""
    fields = json_text.reread(about)
    return {
        "sequence": sequence,
        "recorded_at": format_time(recorded_at),
        "reason": reason,
        "detail": detail,
        **{name: fields.get(name) for name in ("id", "actor", "type")},
    }


def _facts(of: First | Entry) -> dict[str, Json]:
    view: dict[str, Json] = {
        "status": of.status.name,
        "version": of.version,
        "sequence": of.sequence,
        "recorded_at": format_time(of.recorded_at),
        "created": of.is_creation,
    }
    return view | ({"reason": of.reason} if of.reason else {})
