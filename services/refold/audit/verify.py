"""Verify that a projection is what its log makes of it: read the log once, and fold every stored document again.

Run by `refold verify`; reads only, in one consistent view, and needs about 250 bytes a document.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from refold.audit.replay_check import EMPTY_DIGEST, Difference, ReplayCheck, digest_of, shown
from refold.core.document import Document, Status
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.history import Entry
from refold.core.stream import (
    PARTITIONS,
    SYSTEM_NAMESPACE,
    Checkpoint,
    Counts,
    Record,
    Route,
    author_headers,
    partition_of,
    route,
    stored_subject,
)
from refold.history.rejections import unroutable_rejection
from refold.log import EventLog
from refold.store import Key, NamespaceCount, Rejection
from refold.store.ports import Auditor, Item, ReadSnapshot, StoredEntry, StoredPage, position_of

VERIFY_LOCATED_MAX: Final = 100
"""Differing documents whose events are named one by one; of the others only the document is named."""

UNROUTABLE: Final = ("", "")
"""The key of all events that belong to no document."""

REPORT_EVERY: int = 500
"""Rows between two reports of progress."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Progress of a verification: the log read up to a sequence, documents and events folded again."""

    end_sequence: int = 0
    read_sequence: int = 0
    documents: int = 0
    events: int = 0
    differences: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Callbacks of a verification: each difference when it is found, and its progress."""

    difference: Callable[[Difference], None]
    progress: Callable[[Tally], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is verified: everything, a namespace, or one document."""

    namespace: str | None = None
    document: str | None = None

    def holds(self, where: Route) -> bool:
        """Tell whether a document is in scope."""
        if self.namespace is None:
            return True
        return where.namespace == self.namespace and self.document in {None, where.document}


async def verify(log: EventLog, store: Auditor, listener: Listener, scope: Scope) -> Tally:
    """Compare the projection, as it is now, with the log. Raises `LogHole`, `StoreDiffers`, `FoldUnknown`."""
    log_id = (await log.info()).log_id
    await store.bind(log_id)
    async with store.read_snapshot() as snapshot:
        return await _Verification(log, snapshot, listener, scope).run(log_id)


class _Verification:
    def __init__(self, log: EventLog, snapshot: ReadSnapshot, listener: Listener, scope: Scope) -> None:
        self._log = log
        self._snapshot = snapshot
        self._listener = listener
        self._scope = scope
        self._tally = Tally()
        self._counts = [Counts() for _ in range(PARTITIONS)]
        self._namespaces: dict[str, list[int]] = {}
        self._suspects: list[Key] = []

    async def run(self, log_id: str) -> Tally:
        stored = await self._snapshot.checkpoints()
        end = self._tally.end_sequence = max(checkpoint.read_sequence for checkpoint in stored)
        info = await self._log.info()
        if info.last_sequence < end:
            self._report(Difference("", "", end, "log", "last_sequence", str(end), str(info.last_sequence)))
            return self._tally
        log_digest = LogDigest(log_id, self._scope.holds)
        await self._read_log(log_digest, end)
        self._check_checkpoints(log_digest.checkpoints(), stored)
        await self._check_documents(log_digest)
        for key in list(log_digest.digests):
            self._report(Difference(*key, None, "document", "row", "there", "missing"))
        if self._scope.namespace is None:
            self._check_counts(stored, log_digest)
        await self._check_namespaces()
        await self._locate_suspects()
        self._listener.progress(self._tally)
        return self._tally

    async def _read_log(self, log_digest: LogDigest, end: int) -> None:
        async with aclosing(records_until(self._log, end)) as runs:
            async for records in runs:
                for record in records:
                    log_digest.add(record)
                self._tally.read_sequence = records[-1].sequence
                self._listener.progress(self._tally)

    async def _check_documents(self, log_digest: LogDigest) -> None:
        """Check one document after another; each takes its digest out of the log digest."""
        check: ReplayCheck | None = None
        rows = 0
        async with aclosing(self._snapshot.items(self._scope.namespace, self._scope.document)) as items:
            async for item in self._past_unroutable(items, log_digest):
                key = position_of(item)[:2]
                if check is None or check.key != key:
                    self._close(check, log_digest)
                    check = ReplayCheck(key, log_digest.fold_number_at)
                for difference in check.take(item):
                    self._report(difference)
                rows += 1
                if rows % REPORT_EVERY == 0:
                    self._listener.progress(self._tally)
        self._close(check, log_digest)

    def _close(self, check: ReplayCheck | None, log_digest: LogDigest) -> None:
        if check is None:
            return
        for difference in check.finish():
            self._report(difference)
        expected = log_digest.digests.pop(check.key, EMPTY_DIGEST)
        if check.is_readable and check.digest != expected:
            self._suspects.append(check.key)
        self._tally.documents += 1
        self._tally.events += check.events
        counts = self._counts[check.partition]
        for status in Status:
            setattr(counts, status.name, getattr(counts, status.name) + getattr(check.counts, status.name))
        counted = self._namespaces.setdefault(check.key[0], [0, 0])
        counted[0] += check.is_present
        counted[1] += check.events

    async def _past_unroutable(
        self, items: AsyncIterator[Item], log_digest: LogDigest
    ) -> AsyncGenerator[Item]:
        """Compare events that name no document with the log's, and yield the rest."""
        digest = EMPTY_DIGEST
        async for item in items:
            if position_of(item)[:2] != UNROUTABLE:
                yield item
                continue
            assert isinstance(item, Rejection)
            if item.record is not None:
                digest = digest_of(digest, item.record, item.recorded_at)
            self._check_unroutable(item)
        if log_digest.digests.pop(UNROUTABLE, EMPTY_DIGEST) != digest:
            self._suspects.append(UNROUTABLE)

    def _check_unroutable(self, found: Rejection) -> None:
        if found.record is None:
            self._report(Difference("", "", found.sequence, "rejection", "record", "the event", "none"))
            return
        expected = unroutable_rejection(route(found.record.subject), found.record, found.recorded_at)
        for name, value in expected._asdict().items():
            if name != "detail" and getattr(found, name) != value:
                values = (shown(value), shown(getattr(found, name)))
                self._report(Difference("", "", found.sequence, "rejection", name, *values))

    def _check_checkpoints(self, expected: list[Checkpoint], found: list[Checkpoint]) -> None:
        if len(found) != len(expected):
            values = (str(len(expected)), str(len(found)))
            self._report(Difference("", "", None, "checkpoint", "rows", *values))
        for stored in found:
            made = expected[stored.partition]
            for name in ("read_sequence", "last_sequence", "recorded_at", "fold", "chain_before", "chain"):
                self._check_checkpoint(stored.partition, name, getattr(made, name), getattr(stored, name))

    def _check_checkpoint(self, partition: int, name: str, expected: object, found: object) -> None:
        if expected != found:
            field = f"partition {partition} {name}"
            self._report(Difference("", "", None, "checkpoint", field, shown(expected), shown(found)))

    def _check_counts(self, stored: list[Checkpoint], log_digest: LogDigest) -> None:
        """Compare the counts of all outcomes; they differ where a document could not be read."""
        for checkpoint in stored:
            counts = self._counts[checkpoint.partition]
            counts.rejected += log_digest.refused[checkpoint.partition]
            self._check_checkpoint(checkpoint.partition, "counts", counts, checkpoint.counts)

    async def _check_namespaces(self) -> None:
        if self._scope.document is not None:
            return
        expected = [NamespaceCount(name, *self._namespaces[name]) for name in sorted(self._namespaces)]
        wanted = self._scope.namespace
        found = [count for count in await self._snapshot.namespaces() if wanted in {None, count.namespace}]
        by_name = {count.namespace: count for count in found}
        for count in expected:
            other = by_name.pop(count.namespace, None)
            if count != other:
                self._report(
                    Difference(count.namespace, "", None, "namespace", "counts", shown(count), shown(other))
                )
        for name, count in by_name.items():
            self._report(Difference(name, "", None, "namespace", "counts", "none", shown(count)))

    async def _locate_suspects(self) -> None:
        """Report the events by which documents differ from the log."""
        named, rest = self._suspects[:VERIFY_LOCATED_MAX], self._suspects[VERIFY_LOCATED_MAX:]
        for key in rest:
            self._report(Difference(*key, None, "log", "events", "those of the log", "others"))
        if named:
            runs = records_until(self._log, self._tally.end_sequence)
            async with aclosing(runs):
                for difference in await _locate(runs, self._snapshot, named):
                    self._report(difference)

    def _report(self, difference: Difference) -> None:
        self._tally.differences += 1
        self._listener.difference(difference)


class LogDigest:
    """The log read in order: its chains, counts and fold numbers, and one digest for each document that is wanted.

    Only the system's own documents are folded.
    """

    def __init__(self, log_id: str, wants: Callable[[Route], bool]) -> None:
        """Begin before the first event."""
        self._fold_state = FoldState(first_checkpoints(log_id))
        self._wants = wants
        self._system: dict[str, Document] = {}
        self._fold_numbers = [(0, 1)]
        self.digests: dict[Key, bytes] = {}
        self.refused = [0] * PARTITIONS
        self.checkpoints = self._fold_state.checkpoints

    def add(self, record: Record) -> None:
        """Read one more event. Raises `FoldUnknown`, `LogHole`."""
        fold_state = self._fold_state
        where = fold_state.route(record.subject)
        record = record._replace(headers=author_headers(record.headers))
        if where.namespace == SYSTEM_NAMESPACE:
            self._fold(record, where)
        else:
            fold_state.witness(record, where)
            if where.reason:
                self.refused[where.partition] += 1
        if self._wants(where):
            key = where[1:3]
            digest = self.digests.get(key, EMPTY_DIGEST)
            self.digests[key] = digest_of(digest, record, fold_state.recorded_at)

    def fold_number_at(self, sequence: int) -> int:
        """Return the fold number in force for the event at a sequence."""
        return self._fold_numbers[bisect_right(self._fold_numbers, sequence, key=itemgetter(0)) - 1][1]

    def _fold(self, record: Record, where: Route) -> None:
        fresh = Document(namespace=where.namespace, document=where.document, partition=where.partition)
        self._fold_state.fold(record, where, self._system.setdefault(where.document, fresh))
        number = self._fold_state.fold_number
        if record.sequence == 1:
            # A genesis is folded by the rules of its own number.
            self._fold_numbers = [(0, number)]
        elif number != self._fold_numbers[-1][1]:
            self._fold_numbers.append((record.sequence + 1, number))


async def records_until(log: EventLog, end_sequence: int) -> AsyncGenerator[list[Record]]:
    """Yield the log's records from the first to the one at a sequence, which the log has."""
    if not end_sequence:
        return
    async with aclosing(log.read(0)) as runs:
        async for records in runs:
            if records[-1].sequence < end_sequence:
                yield records
                continue
            yield [record for record in records if record.sequence <= end_sequence]
            return


_Digests = dict[int, bytes]
"""Digests of single events by their sequence."""


async def _locate(
    runs: AsyncIterator[list[Record]], snapshot: ReadSnapshot, keys: list[Key]
) -> list[Difference]:
    """Read the log again for these documents, and compare every one of their events with it."""
    logged = await _logged_digests(runs, keys)
    found: list[Difference] = []
    for key in keys:
        stored: _Digests = {}
        async with aclosing(snapshot.items(*key)) as items:
            async for item in items:
                for record, recorded_at in _records(key, item):
                    stored[record.sequence] = digest_of(EMPTY_DIGEST, record, recorded_at)
        found += _differences(key, logged[key], stored)
    return found


async def _logged_digests(runs: AsyncIterator[list[Record]], keys: list[Key]) -> dict[Key, _Digests]:
    logged: dict[Key, _Digests] = {key: {} for key in keys}
    recorded_at = 0
    async for records in runs:
        for record in records:
            recorded_at = max(recorded_at, record.time)
            events = logged.get(route(record.subject)[1:3])
            if events is not None:
                stored = record._replace(headers=author_headers(record.headers))
                events[record.sequence] = digest_of(EMPTY_DIGEST, stored, recorded_at)
    return logged


def _records(key: Key, item: Item) -> Iterator[tuple[Record, int]]:
    if isinstance(item, StoredPage) and item.closed is not None:
        yield from (_recorded(key, entry) for entry in item.closed.entries)
    elif isinstance(item, StoredEntry):
        yield _recorded(key, item.entry)
    elif isinstance(item, Rejection) and key == UNROUTABLE and item.record is not None:
        yield item.record, item.recorded_at


def _recorded(key: Key, entry: Entry) -> tuple[Record, int]:
    usual = stored_subject(partition_of(key[0].encode(), key[1].encode()), *key)
    subject = usual if entry.subject is None else entry.subject
    return Record(entry.sequence, entry.time, subject, entry.headers, entry.body), entry.recorded_at


def _differences(key: Key, logged: _Digests, stored: _Digests) -> Iterator[Difference]:
    for sequence in sorted(logged.keys() | stored.keys()):
        if sequence not in stored:
            yield Difference(*key, sequence, "log", "event", "there", "missing")
        elif sequence not in logged:
            yield Difference(*key, sequence, "log", "event", "none", "there")
        elif logged[sequence] != stored[sequence]:
            yield Difference(*key, sequence, "log", "event", "as in the log", "another")
