"""A document's effective changes as history shows them, gathered from segments within the answer's bounds.

Used by `refold.history.History`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.envelope import open_envelope
from refold.core.history import Entry, Segment, operations_of, touches
from refold.core.limits import UNBOUNDED
from refold.core.views import change_view
from refold.store import ANSWER_BYTES_MAX

HISTORY_SCAN_MAX: Final = 20_000
"""Changes that one answer looks at in search of those that touched a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Which changes: those behind version `after` in the order asked that touched the place `tokens`."""

    after: int | None
    limit: int
    is_descending: bool
    tokens: tuple[str, ...] | None = None


class Slice(NamedTuple):
    """Changes as canonical bytes, in the order asked; `next` is the `after` that continues, None at the end."""

    items: list[bytes]
    next: int | None


async def gather(segments: AsyncIterator[Segment], ask: Ask) -> Slice:
    """Take changes from segments, in the order asked, until a bound is met."""
    items: list[bytes] = []
    bytes_count = scanned = last = 0
    async for segment in segments:
        for entry in _wanted(segment, ask):
            is_full = len(items) >= ask.limit or scanned >= HISTORY_SCAN_MAX
            change = None if is_full else change_of(entry, ask.tokens)
            bytes_count += len(change or b"")
            if is_full or (bytes_count > ANSWER_BYTES_MAX and items and change):
                return Slice(items, last)
            scanned += 1
            last = entry.version
            if change is not None:
                items.append(change)
    return Slice(items, None)


def change_of(entry: Entry, tokens: tuple[str, ...] | None = None) -> bytes | None:
    """Show an effective entry; None where it did not touch the place."""
    operations = operations_of(entry)
    if tokens is not None and not touches(operations, tokens):
        return None
    fields = open_envelope(entry.headers, entry.body, UNBOUNDED).fields
    view = change_view(entry, operations, fields) | {"status": entry.status.name, "meta": fields.get("meta")}
    return json_text.dumps(view)


def _wanted(segment: Segment, ask: Ask) -> Iterator[Entry]:
    entries = reversed(segment.entries) if ask.is_descending else iter(segment.entries)
    for entry in entries:
        if entry.status.is_effective and _is_behind(entry.version, ask):
            yield entry


def _is_behind(version: int, ask: Ask) -> bool:
    if ask.after is None:
        return True
    return version < ask.after if ask.is_descending else version > ask.after
