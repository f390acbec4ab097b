"""A document as it was at a point, from a row of the statement `points`.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from refold.core.history import NEVER, Point, Snapshot
from refold.core.page import PackedEntries
from refold.core.replay import ListedColumns, state_at
from refold.store import Key, damaged, reading_stored
from refold.store.postgres.pool import Row
from refold.store.postgres.rows import ROW_MISSING, decompress


class _Found(NamedTuple):
    """The columns of the statement, in order: the head, the base, the page after it, or the journal (see there)."""

    number: int
    fits: bool
    is_head: bool
    version: int | None
    version_sequence: int
    recorded_at: int
    occurred_at: int
    occurred_max: int
    state: bytes | None
    events: int
    paged_events: int
    base_version: int | None
    base_version_sequence: int
    base_recorded_at: int
    base_occurred_at: int
    base_occurred_max: int
    base_events: int
    base_snapshot: bytes | None
    page_events: int
    page_payload: bytes | None
    journal_events: int
    journal_effective: int
    journal_sequence: list[int] | None
    journal_recorded_at: list[int]
    journal_occurred_at: list[int]
    journal_version: list[int]
    journal_kind: list[int]
    journal_headers: list[bytes]
    journal_body: list[bytes]
    journal_effect: list[bytes | None]


_COLUMNS: Final = ("sequence", "recorded_at", "occurred_at", "version", "kind", "headers", "body", "effect")
"""The last columns of the statement."""


def snapshot_at(key: Key, row: Row, point: Point) -> Snapshot:
    """Return the snapshot at a point. Raises `StoreDamaged`, also where the counts show that rows are missing."""
    found = _Found._make(row)
    if found.version is None:
        raise damaged(*key, ROW_MISSING)
    if found.is_head:
        return _head(found)
    with reading_stored(*key):
        entries = None if found.page_payload is None else PackedEntries(decompress(found.page_payload))
        _check_counts(key, found, entries)
        base = _base(found)
        if entries is not None:
            return state_at(base, entries, point)
        return base if found.journal_sequence is None else state_at(base, _journal(found), point)


def _check_counts(key: Key, found: _Found, entries: PackedEntries | None) -> None:
    if entries is None and found.base_events == found.paged_events:
        expected = (found.events - found.paged_events, (found.version or 0) - (found.base_version or 0))
        counted = (found.journal_events, found.journal_effective)
        if counted != expected:
            what = "the journal lacks events of it"
            raise damaged(key[0], key[1], what, expected=expected[0], found=counted[0])
    elif entries is None or found.base_events + len(entries) != found.page_events:
        raise damaged(*key, "a page of its history is missing")


def _head(found: _Found) -> Snapshot:
    if not found.version:
        return NEVER
    times = (found.recorded_at, found.occurred_at, found.occurred_max)
    return Snapshot(found.version, found.state, found.version_sequence, *times)


def _base(found: _Found) -> Snapshot:
    if found.base_version is None:
        return NEVER
    state = None if found.base_snapshot is None else decompress(found.base_snapshot)
    times = (found.base_recorded_at, found.base_occurred_at, found.base_occurred_max)
    return Snapshot(found.base_version, state, found.base_version_sequence, *times)


def _journal(found: _Found) -> ListedColumns:
    columns: dict[str, Any] = dict(zip(_COLUMNS, found[-len(_COLUMNS) :], strict=True))
    return ListedColumns(columns | {"status": bytes(len(found.journal_version))})
