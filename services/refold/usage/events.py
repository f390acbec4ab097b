"""Read what is counted of one event from its record and its outcome. Pure; used by `refold.usage.reader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from refold.core import json_text
from refold.core.document import UNBOUNDED, Kind, Status
from refold.core.envelope import open_envelope
from refold.core.errors import Refused
from refold.core.history import Entry
from refold.core.json_text import Json
from refold.core.stream import Record
from refold.store import Rejection
from refold.usage import TEXT_CHARS_MAX, WHOLE_DOCUMENT, Counted

Outcome = Entry | Rejection | None
"""What the fold made of an event: an effective entry, a rejection, or (None) a duplicate."""

_WHOLE: Final = (WHOLE_DOCUMENT,)


def read_event(
    record: Record,
    fields: Mapping[str, Json],
    outcome: Outcome,
    *,
    time: int,
    key: tuple[str, str],
    is_conflict: bool,
    has_actor: bool,
) -> Counted:
    """Return what is counted of an event; without `has_actor`, its actor and its session are left out.

    The record has its author's headers only. `key` is the document that its subject names; a rejection says whether it
    named one under the fold of the time.
    """
    sections: Sequence[str] = ()
    status = Status.duplicate
    if isinstance(outcome, Entry):
        status, sections = outcome.status, _sections(outcome, fields)
    elif outcome is not None:
        status, key = Status.rejected, (outcome.namespace, outcome.document)
    return Counted(
        record.sequence,
        time,
        *key,
        status,
        is_conflict,
        _text(fields, "actor") if has_actor else None,
        _text(fields, "type"),
        _text(fields, "session") if has_actor else None,
        len(record.headers) + len(record.body),
        sections,
    )


def fields_of(record: Record) -> dict[str, Json]:
    """Return the fields of an event, which has its author's headers only, as far as they can be read."""
    try:
        return open_envelope(record.headers, record.body, UNBOUNDED).fields
    except Refused:
        return {}


def _text(fields: Mapping[str, Json], name: str) -> str | None:
    value = fields.get(name)
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else None


def _sections(entry: Entry, fields: Mapping[str, Json]) -> Sequence[str]:
    """Return the section of each effective operation."""
    operations: list[Json]
    if entry.effect is not None:
        operations = json_text.reread(entry.effect)
    elif entry.kind is not Kind.patch:
        return _WHOLE
    else:
        operations = fields["patch"]
    return [section_of(each["path"]) for each in operations if each["op"] != "test"]


def section_of(path: str) -> str:
    """Return the part of a JSON pointer up to the end of its first token."""
    end = path.find("/", 1)
    return (path if end < 0 else path[:end])[:TEXT_CHARS_MAX]
