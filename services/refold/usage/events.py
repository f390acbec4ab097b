"""Read what is counted of one event from its record and its outcome. Pure; used by `refold.usage.reader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from refold.core import json_text
from refold.core.document import UNBOUNDED, Kind, Status
from refold.core.envelope import REPLY_HEADER, open_envelope, read_headers
from refold.core.errors import Refused
from refold.core.history import Entry
from refold.core.json_text import Json
from refold.core.stream import Record
from refold.store import Key, Rejection
from refold.usage import TEXT_CHARS_MAX, WHOLE_DOCUMENT, Counted

Outcome = Entry | Rejection | None
"""What the fold made of an event: an effective entry, a rejection, or (None) a duplicate."""

HEADERS_CACHED_MAX: Final = 1_000
HEADERS_CACHED_BYTES_MAX: Final = 512
"""Headers whose meaning is remembered: all events of one gateway carry the same."""

_WHOLE: Final = (WHOLE_DOCUMENT,)


def read_event(
    record: Record, outcome: Outcome, *, time: int, key: Key, is_conflict: bool, has_actor: bool
) -> Counted:
    """Return what is counted of an event; without `has_actor`, its actor and its session are left out.

    The record has its author's headers only. `key` is the document that its subject names; a rejection says whether it
    named one under the fold of the time.
    """
    sections: Sequence[str] = ()
    status = Status.duplicate
    fields = fields_of(record, is_accepted=isinstance(outcome, Entry))
    if isinstance(outcome, Entry):
        status, sections = outcome.status, _sections(outcome, fields)
    elif outcome is not None:
        status, key = Status.rejected, (outcome.namespace, outcome.document)
    sequence, _, _, headers, body = record
    get = fields.get
    return Counted(
        sequence,
        time,
        *key,
        status,
        is_conflict,
        _text(get("actor")) if has_actor else None,
        _text(get("type")),
        _text(get("session")) if has_actor else None,
        len(headers) + len(body),
        sections,
    )


def fields_of(record: Record, *, is_accepted: bool) -> Mapping[str, Json]:
    """Return the fields of an event, which has its author's headers only, as far as they can be read.

    One that was accepted is read without the checks of the fold, in a third of the time.
    """
    _, _, _, headers, body = record
    if headers and len(headers) <= HEADERS_CACHED_BYTES_MAX and not _has_fields(headers):
        headers = b""
    if is_accepted and not headers:
        fields: Mapping[str, Json] = json_text.reread(body)
        return fields
    try:
        return open_envelope(headers, body, UNBOUNDED).fields
    except Refused:
        return {}


@lru_cache(HEADERS_CACHED_MAX)
def _has_fields(headers: bytes) -> bool:
    """Return whether headers may have fields of the event. Reading them takes half as long as everything else."""
    try:
        return not read_headers(headers).keys() <= {REPLY_HEADER}
    except Refused:
        return True


def _text(value: Json) -> str | None:
    return value[:TEXT_CHARS_MAX] if type(value) is str else None


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
