"""Names the events by which stored documents differ from the log, once their digests have said that they do.

Used by `refold.projector.verify`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

from refold.core.ledger import NOTHING, NOWHERE, digest_of
from refold.core.outcome import Entry
from refold.core.record import Record, author_headers, partition_of, place, stored_subject
from refold.projector.retrial import Difference
from refold.store import Key, Rejection
from refold.store.ports import Item, ReadSnapshot, StoredEntry, StoredPage

Digests = dict[int, bytes]
"""Digests of single events by their sequence."""


async def locate(
    runs: AsyncIterator[list[Record]], snapshot: ReadSnapshot, keys: list[Key]
) -> list[Difference]:
    """Read the log again for these documents, and hold every one of their events against it."""
    logged = await _logged(runs, keys)
    found: list[Difference] = []
    for key in keys:
        stored: Digests = {}
        async with aclosing(snapshot.items(*key)) as items:
            async for item in items:
                for record, recorded_at in _records(key, item):
                    stored[record.sequence] = digest_of(NOTHING, record, recorded_at)
        found += _differences(key, logged[key], stored)
    return found


async def _logged(runs: AsyncIterator[list[Record]], keys: list[Key]) -> dict[Key, Digests]:
    logged: dict[Key, Digests] = {key: {} for key in keys}
    recorded_at = 0
    async for records in runs:
        for record in records:
            recorded_at = max(recorded_at, record.time)
            events = logged.get(place(record.subject)[1:3])
            if events is not None:
                stored = record._replace(headers=author_headers(record.headers))
                events[record.sequence] = digest_of(NOTHING, stored, recorded_at)
    return logged


def _records(key: Key, item: Item) -> Iterator[tuple[Record, int]]:
    if isinstance(item, StoredPage) and item.closed is not None:
        yield from (_recorded(key, entry) for entry in item.closed.entries)
    elif isinstance(item, StoredEntry):
        yield _recorded(key, item.entry)
    elif isinstance(item, Rejection) and key == NOWHERE and item.record is not None:
        yield item.record, item.recorded_at


def _recorded(key: Key, entry: Entry) -> tuple[Record, int]:
    usual = stored_subject(partition_of(key[0].encode(), key[1].encode()), *key)
    subject = usual if entry.subject is None else entry.subject
    return Record(entry.sequence, entry.time, subject, entry.headers, entry.body), entry.recorded_at


def _differences(key: Key, logged: Digests, stored: Digests) -> Iterator[Difference]:
    for sequence in sorted(logged.keys() | stored.keys()):
        if sequence not in stored:
            yield Difference(*key, sequence, "log", "event", "there", "missing")
        elif sequence not in logged:
            yield Difference(*key, sequence, "log", "event", "none", "there")
        elif logged[sequence] != stored[sequence]:
            yield Difference(*key, sequence, "log", "event", "as in the log", "another")
