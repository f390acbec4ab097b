"""Load what the fold needs in addition to the documents: changes that rules need, and the system's documents.

Used by the projector's loop, where an event needs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, cast

from refold.core.document import Document
from refold.core.fold.window import WINDOW_BYTES_MAX, change_bytes, recent_since
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.history import NEVER, Entry, Segment
from refold.core.stream import SYSTEM_NAMESPACE, Record, Route, route
from refold.history import record_of
from refold.history.document_replay import Clamps
from refold.log import EventLog, read_until
from refold.projector.commit_buffer import CommitBuffer
from refold.store import Depth, Key, damaged, reading_stored
from refold.store.ports import (
    HistoryReader,
    Item,
    RecentReader,
    SnapshotStore,
    Store,
    StoredEntry,
    StoredPage,
    Unreadable,
    position_of,
)

_SYSTEM: Final = SYSTEM_NAMESPACE.encode()


Needed = Mapping[Key, tuple[Document, int]]
"""Documents, and the version of each since which its changes are needed."""


def keep_windows(needed: Needed, buffers: Sequence[CommitBuffer]) -> Needed:
    """Keep the documents' changes with them where all of those are in memory; return the other documents."""
    missing: dict[Key, tuple[Document, int]] = {}
    for key, (document, version) in needed.items():
        segment = _uncommitted_segment(key, document, version, buffers)
        if segment is None:
            missing[key] = document, version
        else:
            document.recent = recent_since(segment, document, version)
    return missing


def _uncommitted_segment(
    key: Key, document: Document, version: int, buffers: Sequence[CommitBuffer]
) -> Segment | None:
    """Return a document's history from its beginning, or from a page that ends at or before a version, to its head."""
    base, events = NEVER, 0
    entries: list[Entry] = []
    for buffer in buffers:
        for page in buffer.pages_of(key):
            entries.extend(page.new_entries)
            if page.closing.version <= version:
                base, events, entries = page.closing, page.events, []
        entries.extend(buffer.journal_of(key))
    return Segment(base, 0, entries) if events + len(entries) == document.events else None


async def load_windows(
    store: HistoryReader, needed: Needed, uncommitted: Callable[[Key], Iterable[Entry]]
) -> None:
    """Load the documents' changes since a version of each, from memory and the store, and keep them with them."""
    # First from memory: what is committed meanwhile is in the store when that is read.
    pending = {key: list(uncommitted(key)) for key in needed}
    loaded = await asyncio.gather(*(_segment(store, key, version) for key, (_, version) in needed.items()))
    for (key, (document, version)), segment in zip(needed.items(), loaded, strict=True):
        by_sequence = {entry.sequence: entry for entry in (*segment.entries, *pending[key])}
        entries = [by_sequence[sequence] for sequence in sorted(by_sequence)]
        with reading_stored(*key):
            document.recent = recent_since(segment._replace(entries=entries), document, version)


async def _segment(store: HistoryReader, key: Key, version: int) -> Segment:
    """Read a document's committed history back to a version, or to one whose earlier bases are too old."""
    base, size = NEVER, 0
    found: list[list[Entry]] = []
    segments = store.segments(*key, after_version=None, is_descending=True)
    async with aclosing(segments):
        async for segment in segments:
            base = segment.base
            found.append(segment.entries)
            size += sum(map(change_bytes, segment.entries))
            if base.version <= version or size > WINDOW_BYTES_MAX:
                break
    return Segment(base, 0, [entry for entries in reversed(found) for entry in entries])


def split_by_rules(records: list[Record], route_of: Callable[[bytes], Route]) -> Iterator[list[Record]]:
    """Divide records so that a system event, which may advance the fold number, is the last of its part."""
    begin = 0
    for at, (_, _, subject, _, _) in enumerate(records, 1):
        # The first test is for speed: it takes a fifth of the second.
        if _SYSTEM in subject and route_of(subject).namespace == SYSTEM_NAMESPACE:
            yield records[begin:at]
            begin = at
    if begin < len(records):
        yield records[begin:]


async def resume_system(fold_state: FoldState, log: EventLog, store: Store) -> None:
    """Give a shard the settings and the foreign system documents as they were at its checkpoint.

    Other shards may have committed more or less of the log: their stored system events are folded again up to the
    checkpoint, and what a shard has not committed is read from the log.
    """
    if not fold_state.read_sequence:
        return
    records = await _system_records(log, store, fold_state.read_sequence)
    system = FoldState(first_checkpoints("")[:1])
    for sequence in sorted(records):
        record = records[sequence]
        system.skip(record, system.route(record.subject))
    fold_state.resume(system)


async def _system_records(log: EventLog, store: Store, until_sequence: int) -> dict[int, Record]:
    """Return the system's events up to a sequence, each with its monotonic time."""
    behind = min(await store.checkpoints(), key=lambda checkpoint: checkpoint.read_sequence)
    if store.capabilities.depth is Depth.full:
        found = await _stored_records(cast("SnapshotStore", store))
    else:
        found = await _clamped_records(log, cast("RecentReader", store), behind.read_sequence)
    records = {sequence: record for sequence, record in found.items() if sequence <= until_sequence}
    if behind.read_sequence < until_sequence:
        recorded_at = behind.recorded_at
        # Of no partition: the system's events, and what the clock needs.
        async with aclosing(read_until(log, behind.read_sequence, until_sequence, ())) as parts:
            async for record in (record async for part in parts for record in part):
                recorded_at = max(recorded_at, record.time)
                if route(record.subject).namespace == SYSTEM_NAMESPACE:
                    records.setdefault(record.sequence, record._replace(time=recorded_at))
    return records


async def _stored_records(store: SnapshotStore) -> dict[int, Record]:
    """Return the system's events that are committed."""
    records: dict[int, Record] = {}
    async with store.read_snapshot() as snapshot, aclosing(snapshot.items(SYSTEM_NAMESPACE, None)) as items:
        async for item in items:
            for entry in _entries_of(item):
                where = Route.of(SYSTEM_NAMESPACE, position_of(item)[1])
                records[entry.sequence] = record_of(entry, where)._replace(time=entry.recorded_at)
    return records


async def _clamped_records(log: EventLog, store: RecentReader, until_sequence: int) -> dict[int, Record]:
    """Return the system's events of the log up to where all shards have committed."""
    clamps = Clamps(await store.clock())
    async with aclosing(log.read_namespace(SYSTEM_NAMESPACE, 0, until_sequence)) as events:
        return {it.sequence: it._replace(time=max(it.time, clamps.at(it.sequence))) async for it in events}


def _entries_of(item: Item) -> Sequence[Entry]:
    if isinstance(item, Unreadable):
        raise damaged(
            item.namespace, item.document, f"unreadable {item.part}: {item.why}", sequence=item.sequence
        )
    if isinstance(item, StoredPage):
        return item.entries
    return [item.entry] if isinstance(item, StoredEntry) else []
