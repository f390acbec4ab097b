"""Count a log up to where it is folded: events from the log, outcomes from a store.

Used by `refold.wiring.usage`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Final, NamedTuple

from refold.core.errors import LogHole
from refold.core.fold import NEWEST
from refold.core.history import Entry
from refold.core.stream import Checkpoint, Record, Route, author_headers, route
from refold.log import EventLog, read_until
from refold.store import Key, Rejection
from refold.store.ports import Reader
from refold.usage import Counted
from refold.usage.events import fields_of, read_event
from refold.usage.storage import Position, Storage, differing

BATCH_EVENTS_MAX: Final = 5_000
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""Events whose outcomes are read at once, and that are counted in one transaction."""

REJECTIONS_READ: Final = 1_000
"""Rejections of one read."""

SUBJECTS_CACHED_MAX: Final = 100_000


class _Read(NamedTuple):
    """An event before its outcome is known."""

    record: Record
    time: int
    where: Route


class UsageReader:
    """Counts into a file, never further than every partition of the store is folded."""

    def __init__(self, log: EventLog, store: Reader, storage: Storage) -> None:
        self._log = log
        self._store = store
        self._storage = storage

    async def catch_up(self, progress: Callable[[int, int], None] = lambda _, __: None) -> None:
        """Count up to where the store is folded now; `progress` is called with that sequence and how far it is.

        Raises `HistoryElsewhere` where the store no longer keeps an outcome, `StoreDiffers` where the counts are not
        those of its checkpoints, `LogHole` where the log ends before what was counted.
        """
        checkpoints = await self._store.checkpoints()
        until = min((each.read_sequence for each in checkpoints), default=0)
        last = (await self._log.info()).last_sequence
        if self._storage.position.sequence > last:
            message = (
                f"the log ends before what was counted: remove {self._storage.path}, if it is the right log"
            )
            raise LogHole(message, last_sequence=last, counted_sequence=self._storage.position.sequence)
        if self._storage.position.sequence < until:
            await self._count_until(until, progress)
        self._check(checkpoints)

    async def _count_until(self, until: int, progress: Callable[[int, int], None]) -> None:
        async with aclosing(read_until(self._log, self._storage.position.sequence, until)) as parts:
            batch: list[Record] = []
            size = 0
            async for records in parts:
                for record in records:
                    batch.append(record)
                    size += len(record.body) + len(record.headers)
                    if len(batch) == BATCH_EVENTS_MAX or size >= BATCH_BYTES_MAX:
                        await self._count(batch)
                        progress(self._storage.position.sequence, until)
                        batch, size = [], 0
            if batch:
                await self._count(batch)
        progress(self._storage.position.sequence, until)

    def _check(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Compare the outcomes with those of the checkpoints where all of them are at the position.

        Raises `StoreDiffers`; the file cannot be used any more.
        """
        found, position = self._storage.statuses, self._storage.position.sequence
        expected = [sum(counts) for counts in zip(*(each.counts for each in checkpoints), strict=True)]
        if expected and expected != found and all(each.read_sequence == position for each in checkpoints):
            self._storage.mark_wrong()
            raise differing(self._storage.path, sequence=position, expected=str(expected), found=str(found))

    async def _count(self, records: Sequence[Record]) -> None:
        after, until = records[0].sequence - 1, records[-1].sequence
        time = self._storage.position.time
        read: list[_Read] = []
        for record in records:
            time = max(time, record.time)
            headers = author_headers(record.headers) if record.headers else b""
            stored = Record(record.sequence, record.time, record.subject, headers, record.body)
            read.append(_Read(stored, time, _route(record.subject)))
        effective = await self._effective(read, after, until)
        rejections = await self._rejections(after, until)
        conflicts = await self._conflicts(read, rejections, after, until)
        counted = [self._counted(each, effective, rejections, conflicts) for each in read]
        # It waits while a question is answered.
        await asyncio.to_thread(self._storage.add, counted, Position(until, time))

    def _counted(
        self,
        read: _Read,
        effective: dict[int, Entry],
        rejections: dict[int, Rejection],
        conflicts: Collection[int],
    ) -> Counted:
        record, time, where = read
        sequence = record.sequence
        entry = effective.get(sequence)
        return read_event(
            record,
            entry or rejections.get(sequence),
            time=time,
            key=where[1:3],
            is_conflict=sequence in conflicts if entry is None else entry.conflict is not None,
            has_actor=where.namespace not in self._storage.totals,
        )

    async def _effective(self, read: Iterable[_Read], after: int, until: int) -> dict[int, Entry]:
        """Return the effective events after a sequence up to another."""
        documents: dict[str, dict[str, None]] = defaultdict(dict)
        for each in read:
            if not each.where.reason:
                documents[each.where.namespace][each.where.document] = None
        found: dict[int, Entry] = {}
        for namespace, names in documents.items():
            entries = await self._store.entries_between(
                namespace, [*names], after_sequence=after, until_sequence=until
            )
            found |= {entry.sequence: entry for _, entry in entries}
        return found

    async def _rejections(self, after: int, until: int) -> dict[int, Rejection]:
        """Return the rejections after a sequence up to another."""
        found: dict[int, Rejection] = {}
        before = until + 1
        while True:
            rows = await self._store.rejections(None, None, limit=REJECTIONS_READ, before_sequence=before)
            found |= {row.sequence: row for row in rows if row.sequence > after}
            if len(rows) < REJECTIONS_READ or rows[-1].sequence <= after:
                return found
            before = rows[-1].sequence

    async def _conflicts(
        self, read: Iterable[_Read], rejections: dict[int, Rejection], after: int, until: int
    ) -> set[int]:
        """Return the rejected events that have a conflict: only one that names its `base` can have one."""
        keys: dict[Key, None] = {
            each.where[1:3]: None
            for each in read
            if each.record.sequence in rejections
            and not each.where.reason
            and "base" in fields_of(each.record, is_accepted=False)
        }
        found: set[int] = set()
        for key in keys:
            pages = self._store.conflicts(*key, after_sequence=after, is_descending=False)
            async with aclosing(pages) as opened:
                async for entries in opened:
                    found |= {entry.sequence for entry in entries}
                    if entries and entries[-1].sequence >= until:
                        break
        return found


@lru_cache(SUBJECTS_CACHED_MAX)
def _route(subject: bytes) -> Route:
    """Return where a subject's events belong under the newest fold; under an earlier one, it may have named nothing."""
    return route(subject, NEWEST.number)
