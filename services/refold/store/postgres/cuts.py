"""Pages within a commit: journal rows become the open page's payload, and the next page is opened.

For `commit` alone: packing happens only inside a fenced transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from refold.core import page
from refold.core.errors import StoreDamaged
from refold.core.identity import pack_identities
from refold.core.outcome import Entry
from refold.core.page import Snapshot
from refold.store import Dirty, Key
from refold.store.postgres.pool import Connection
from refold.store.postgres.rows import compress, rows_of, to_entry
from refold.store.postgres.sql import SQL

_CLOSED: Final = ("last_sequence", "events", "ids", "identities", "payload")
_BASE: Final = (
    "base_sequence",
    "base_version",
    "base_version_sequence",
    "base_recorded_at",
    "base_occurred_max",
    "base_events",
    "base_occurred_at",
    "snapshot",
)
_NAME: Final = ("namespace", "document")


async def write_cuts(connection: Connection, documents: Sequence[Dirty]) -> None:
    """Close each document's open page, write those that this commit both opened and closed, open the last."""
    if not documents:
        return
    journal = await _take_journal(connection, documents)
    closing = (_closing_row(dirty, journal[_key(dirty)]) for dirty in documents)
    await connection.copy_records_to_table("closed_pages", records=closing, columns=(*_NAME, *_CLOSED))
    closed = await connection.execute(SQL["close_pages"])
    first = await connection.execute(SQL["close_first_pages"])
    if rows_of(closed) + rows_of(first) != len(documents):
        raise StoreDamaged(
            "a page to be closed is not the open one", expected=len(documents), found=(closed, first)
        )
    opened = (row for dirty in documents for row in _opened_rows(dirty))
    await connection.copy_records_to_table("pages", records=opened, columns=(*_NAME, *_BASE, *_CLOSED))


async def _take_journal(connection: Connection, documents: Sequence[Dirty]) -> dict[Key, list[Entry]]:
    keys = [_key(dirty) for dirty in documents if dirty.cuts[0].has_journal]
    taken: dict[Key, list[Entry]] = defaultdict(list)
    if keys:
        for row in await connection.fetch(SQL["take_journal"], *map(list, zip(*keys, strict=True))):
            taken[row["namespace"], row["document"]].append(to_entry(row))
    if len(taken) != len(keys):
        raise StoreDamaged("the journal lacks a document's events", expected=len(keys), found=len(taken))
    for entries in taken.values():
        entries.sort(key=lambda entry: entry.sequence)
    return taken


def _closing_row(dirty: Dirty, journal: list[Entry]) -> tuple[object, ...]:
    return (*_key(dirty), *_closed([*journal, *dirty.cuts[0].entries]))


def _opened_rows(dirty: Dirty) -> Iterator[tuple[object, ...]]:
    """Each cut opens the page that the next one closes; the last stays open."""
    events = dirty.document.events - len(dirty.journal) - sum(len(cut.entries) for cut in dirty.cuts)
    for cut, following in zip(dirty.cuts, [*dirty.cuts[1:], None], strict=True):
        events += len(cut.entries)
        base = _base(cut.closing, cut.entries[-1].sequence, events)
        yield (*_key(dirty), *base, *(_closed(following.entries) if following else (None,) * len(_CLOSED)))


def _base(snapshot: Snapshot, base_sequence: int, events: int) -> tuple[object, ...]:
    return (
        base_sequence,
        snapshot.version,
        snapshot.sequence,
        snapshot.recorded_at,
        snapshot.occurred_max,
        events,
        snapshot.occurred_at,
        None if snapshot.state is None else compress(snapshot.state),
    )


def _closed(entries: list[Entry]) -> tuple[object, ...]:
    identities = [entry.identity for entry in entries if entry.identity is not None]
    return (
        entries[-1].sequence,
        len(entries),
        len(identities),
        pack_identities(identities),
        compress(page.pack(entries)),
    )


def _key(dirty: Dirty) -> Key:
    return dirty.document.namespace, dirty.document.document
