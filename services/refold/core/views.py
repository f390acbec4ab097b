"""The shapes of outcomes, changes and rejections, as people and other programs see them.

Notices, HTTP responses and history have no other shapes of their own.
"""

from __future__ import annotations

from typing import Any, Final

from orjson import Fragment

from refold.core import json_text
from refold.core.document import First, Status
from refold.core.event import CHANGES
from refold.core.fold.rules import Step
from refold.core.history import Entry
from refold.core.json_text import Json
from refold.core.stream import Route
from refold.core.timestamp import format_time

CONFLICT_LISTS: Final = ("overwrote", "merged", "dropped")
"""What an outcome says of a conflict: versions that were overwritten or merged with, and dropped operations."""


def outcome_view(
    namespace: str, document: str, entry: Entry, *, event_id: str | None, first: First | Entry | None
) -> dict[str, Json]:
    """Return the outcome of a document's event; `first` is what a duplicate repeats."""
    view = {"namespace": namespace, "document": document, "id": event_id, **_facts(entry)}
    if entry.status.is_effective:
        view["occurred_at"] = format_time(entry.occurred_at)
    if entry.detail:
        view["detail"] = entry.detail
    if entry.conflict is not None:
        conflict = json_text.reread(entry.conflict)
        view |= {name: conflict[name] for name in CONFLICT_LISTS if name in conflict}
    if first is not None:
        view["first"] = _facts(first)
    return view


def step_view(where: Route, step: Step) -> dict[str, Json]:
    """Return the outcome of an event that was just folded."""
    return outcome_view(where.namespace, where.document, step.entry, event_id=step.event_id, first=step.first)


def step_json(where: Route, step: Step) -> bytes:
    """Return the outcome of an event that was just folded as canonical JSON, as `step_view` shows it.

    The usual outcome is written by a template: a fifth of the time.
    """
    entry = step.entry
    is_usual = entry.status is Status.applied and entry.conflict is None and step.first is None
    if not is_usual or entry.detail or entry.reason:
        return json_text.dumps(step_view(where, step))
    recorded, occurred = _times(entry)
    return (
        f'{{"created":{"true" if entry.is_creation else "false"},"document":{_text(where.document)},'
        f'"id":{_text(step.event_id)},"namespace":"{where.namespace}","occurred_at":"{occurred}",'
        f'"recorded_at":"{recorded}","sequence":{entry.sequence},"status":"{entry.status.name}",'
        f'"version":{entry.version}}}'
    ).encode()


def change_json(where: Route, entry: Entry, fields: dict[str, Any], patch: bytes) -> bytes:
    """Return a document's change as canonical JSON, as `change_view` shows it, with its names and a patch that is JSON.

    It is written by a template. `meta` is a member only where the event has it.
    """
    recorded, occurred = _times(entry)
    meta = fields.get("meta")
    about = "" if meta is None else f'"meta":{json_text.dumps(meta).decode()},'
    head = (
        f'{{"actor":{_text(fields.get("actor"))},"document":{_text(where.document)},"id":{_text(fields.get("id"))},'
        f'{about}"namespace":"{where.namespace}","occurred_at":"{occurred}","patch":'
    )
    tail = (
        f',"recorded_at":"{recorded}","sequence":{entry.sequence},"type":{_text(fields.get("type"))},'
        f'"version":{entry.version}}}'
    )
    return b"%b%b%b" % (head.encode(), patch, tail.encode())


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
    recorded, occurred = _times(entry)
    return {
        "version": entry.version,
        "sequence": entry.sequence,
        "recorded_at": recorded,
        "occurred_at": occurred,
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


def conflict_view(namespace: str, document: str, entry: Entry, fields: dict[str, Json]) -> dict[str, Json]:
    """Return what came of resolving a stale event; `fields` are those of the event as it was published."""
    assert entry.conflict is not None
    conflict = json_text.reread(entry.conflict)
    return {
        "namespace": namespace,
        "document": document,
        "sequence": entry.sequence,
        "version": entry.version if entry.status.is_effective else None,
        "recorded_at": format_time(entry.recorded_at),
        "status": entry.status.name,
        "reason": entry.reason or None,
        "detail": entry.detail or None,
        "strategy": conflict["strategy"],
        **{name: conflict.get(name, []) for name in CONFLICT_LISTS},
        **{name: fields.get(name) for name in ("type", "actor", "id", "base")},
        "event": {name: fields[name] for name in CHANGES if name in fields},
    }


def contested_view(
    head_version: int, states: tuple[bytes | None, bytes | None] | None, head: bytes | None
) -> dict[str, Json]:
    """Return the head's version and the states of a conflict, where they are known: at the base, after it, the head.

    `states` are those of the base and of what the event made of it. The state of an absent document is left out.
    """
    if states is None:
        return {"head": head_version, "states": None}
    named = {"base": states[0], "head": head, "incoming": states[1]}
    return {
        "head": head_version,
        "states": {name: Fragment(state) for name, state in named.items() if state is not None},
    }


def _times(entry: Entry) -> tuple[str, str]:
    recorded = format_time(entry.recorded_at)
    is_now = entry.occurred_at == entry.recorded_at
    return recorded, recorded if is_now else format_time(entry.occurred_at)


def _text(value: str | None) -> str:
    return "null" if value is None else json_text.dumps(value).decode()


def _facts(of: First | Entry) -> dict[str, Json]:
    view: dict[str, Json] = {
        "status": of.status.name,
        "version": of.version,
        "sequence": of.sequence,
        "recorded_at": format_time(of.recorded_at),
        "created": of.is_creation,
    }
    return view | ({"reason": of.reason} if of.reason else {})
