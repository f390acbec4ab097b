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
        check_counts(
            key,
            base_events=found.base_events,
            paged_events=found.paged_events,
            events=found.events if entries is None else found.page_events,
            page=None if entries is None else len(entries),
            journal=found.journal_events,
        )
        base = _base(found)
        if entries is not None:
            return state_at(base, entries, point)
        if base.version + found.journal_effective != found.version:
            raise damaged(*key, "the statuses in its journal do not lead to its version")
        return base if found.journal_sequence is None else state_at(base, _journal(found), point)


def check_counts(
    key: Key, *, base_events: int, paged_events: int, events: int, page: int | None, journal: int | None
) -> None:
    """Raise `StoreDamaged` where the counts show that rows are missing.

    `page` is the number of entries in the page after the base, None where there is none; then `journal` is that of the
    journal, None where only a part of it was read. `events` are counted up to the end of that page, or of the journal.
    """
    is_paged = base_events == paged_events if page is None else base_events + page == events
    if not is_paged:
        raise damaged(*key, "a page of its history is missing")
    expected = events - paged_events
    if page is None and journal is not None and journal != expected:
        raise damaged(key[0], key[1], "the journal lacks events of it", expected=expected, found=journal)


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
