"""Verify that a projection is what its log makes of it: read the log once, and fold every stored document again.

Run by `refold verify`; reads only, in one consistent view, and needs about 250 bytes a document.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from refold.audit import EMPTY_DIGEST, Difference, ReplayCheck, compare, digest_of
from refold.audit.independent import Coverage, IndependentCheck
from refold.audit.log_digest import LogDigest
from refold.core.document import ABSENT, Status
from refold.core.stream import (
    PARTITIONS,
    Checkpoint,
    Record,
    Route,
    author_headers,
    route,
)
from refold.history import record_of
from refold.log import EventLog, read_until
from refold.store import Key, NamespaceCount, Rejection
from refold.store.ports import Auditor, Item, ReadSnapshot, StoredEntry, StoredPage, Unreadable, position_of

UNROUTABLE: Final = ("", "")
"""The key of all events that belong to no document."""

VERIFY_LOCATED_MAX: Final = 100
"""Differing documents whose events are named one by one; of the others only the document is named."""

REPORT_EVERY: Final = 500
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


async def verify(
    log: EventLog, store: Auditor, listener: Listener, scope: Scope, coverage: Coverage | None = None
) -> Tally:
    """Compare the projection, as it is now, with the log. Raises `LogHole`, `StoreDiffers`, `FoldUnknown`.

    With `coverage`, other code folds the events (`refold.audit.independent`), and counts there what it judged.
    """
    log_id = (await log.info()).log_id
    await store.bind(log_id)
    async with store.read_snapshot() as snapshot:
        return await _Verification(log, snapshot, listener, scope, log_id, coverage).run()


class _Verification:
    def __init__(
        self,
        log: EventLog,
        snapshot: ReadSnapshot,
        listener: Listener,
        scope: Scope,
        log_id: str,
        coverage: Coverage | None,
    ) -> None:
        self._log = log
        self._snapshot = snapshot
        self._listener = listener
        self._scope = scope
        self._coverage = coverage
        self._log_id = log_id
        self._logged = LogDigest(log_id, scope.holds)
        self._tally = Tally()
        self._counts = [[0] * len(Status) for _ in range(PARTITIONS)]
        self._namespaces: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._suspects: list[Key] = []

    async def run(self) -> Tally:
        stored = await self._snapshot.checkpoints()
        end = self._tally.end_sequence = max(checkpoint.read_sequence for checkpoint in stored)
        last = (await self._log.info()).last_sequence
        if last < end:
            self._report([Difference("", "", end, "log", "last_sequence", str(end), str(last))])
            return self._tally
        await self._read_log(end)
        self._check_checkpoints(stored)
        if self._scope.namespace is None:
            await self._check_structure()
        await self._check_documents()
        for key in list(self._logged.digests):
            self._report([Difference(*key, None, "document", "row", "there", "missing")])
        if self._scope.namespace is None:
            self._check_counts(stored)
        if self._scope.document is None:
            await self._check_namespaces()
        await self._locate_suspects()
        self._listener.progress(self._tally)
        return self._tally

    async def _read_log(self, end: int) -> None:
        async with aclosing(read_until(self._log, 0, end)) as runs:
            async for records in runs:
                self._logged.begin(records)
                for record in records:
                    self._logged.add(record)
                self._tally.read_sequence = records[-1].sequence
                self._listener.progress(self._tally)

    def _check_checkpoints(self, stored: list[Checkpoint]) -> None:
        expected = self._logged.checkpoints()
        self._report(compare(UNROUTABLE, None, "checkpoint", {"rows": len(expected)}, {"rows": len(stored)}))
        for checkpoint in stored:
            partition = checkpoint.partition
            self._check_partition(partition, _position(expected[partition]), _position(checkpoint))

    async def _check_structure(self) -> None:
        """Report damaged indexes, through which rows may be missed, and what values are decoded by."""
        for namespace, document, at, part, why in await self._snapshot.damages():
            self._report([Difference(namespace, document, at or None, part, "content", "readable", why)])

    def _check_counts(self, stored: list[Checkpoint]) -> None:
        """Compare the counts of all outcomes; they differ where a document could not be read."""
        for checkpoint in stored:
            counts = self._counts[checkpoint.partition]
            counts[Status.rejected] += self._logged.refused[checkpoint.partition]
            self._check_partition(checkpoint.partition, _named(counts), _named(checkpoint.counts))

    def _check_partition(self, partition: int, expected: dict[str, object], found: dict[str, object]) -> None:
        named = [
            {f"partition {partition} {name}": value for name, value in each.items()}
            for each in (expected, found)
        ]
        self._report(compare(UNROUTABLE, None, "checkpoint", *named))

    async def _check_documents(self) -> None:
        """Check one document after another; each takes its digest out of the log's."""
        check: ReplayCheck | IndependentCheck | None = None
        rows = 0
        async with aclosing(self._snapshot.items(self._scope.namespace, self._scope.document)) as items:
            async for item in self._past_unroutable(items):
                key = position_of(item)[:2]
                if check is None or check.key != key:
                    self._close(check)
                    check = self._check_of(key)
                self._report(check.take(item))
                rows += 1
                if rows % REPORT_EVERY == 0:
                    self._listener.progress(self._tally)
        self._close(check)

    def _check_of(self, key: Key) -> ReplayCheck | IndependentCheck:
        return (
            ReplayCheck(key, self._logged)
            if self._coverage is None
            else IndependentCheck(key, self._coverage)
        )

    def _close(self, check: ReplayCheck | IndependentCheck | None) -> None:
        if check is None:
            return
        self._report(check.finish())
        expected = self._logged.digests.pop(check.key, EMPTY_DIGEST)
        if check.is_readable and check.digest != expected:
            self._suspects.append(check.key)
        self._tally.documents += 1
        self._tally.events += check.document.events
        counts = self._counts[check.document.partition]
        for status in Status:
            counts[status] += check.counts[status]
        counted = self._namespaces[check.key[0]]
        counted[0] += check.document.state is not ABSENT
        counted[1] += check.document.events

    async def _past_unroutable(self, items: AsyncIterator[Item]) -> AsyncGenerator[Item]:
        """Compare events that name no document with the log's, and yield the rest."""
        digest = EMPTY_DIGEST
        async for item in items:
            if position_of(item)[:2] != UNROUTABLE:
                yield item
                continue
            if isinstance(item, Unreadable):
                self._report([Difference("", "", item.sequence, item.part, "content", "readable", item.why)])
                continue
            assert isinstance(item, Rejection)
            record, at = item.record, item.sequence
            if record is None:
                self._report([Difference("", "", at, "rejection", "record", "the event", "none")])
                continue
            digest = digest_of(digest, record, item.recorded_at)
            where = route(record.subject, self._logged.fold_number_at(at))
            expected = Rejection.unroutable(where, record, item.recorded_at)
            self._report(compare(UNROUTABLE, at, "rejection", expected._asdict(), item._asdict()))
        if self._logged.digests.pop(UNROUTABLE, EMPTY_DIGEST) != digest:
            self._suspects.append(UNROUTABLE)

    async def _check_namespaces(self) -> None:
        expected = {name: NamespaceCount(name, *counted) for name, counted in self._namespaces.items()}
        wanted = self._scope.namespace
        found = {
            count.namespace: count
            for count in await self._snapshot.namespaces()
            if wanted in {None, count.namespace}
        }
        for name in sorted(expected.keys() | found.keys()):
            counts = {"counts": expected.get(name)}, {"counts": found.get(name)}
            self._report(compare((name, ""), None, "namespace", *counts))

    async def _locate_suspects(self) -> None:
        """Report the events by which documents differ from the log."""
        named, rest = self._suspects[:VERIFY_LOCATED_MAX], self._suspects[VERIFY_LOCATED_MAX:]
        for key in rest:
            self._report([Difference(*key, None, "log", "events", "those of the log", "others")])
        if named:
            logged = await self._logged_digests(named)
            for key in named:
                self._report(_differences(key, logged[key], await self._stored_digests(key)))

    async def _logged_digests(self, keys: list[Key]) -> dict[Key, _Digests]:
        """Read the log again for these documents."""
        logged: dict[Key, _Digests] = {key: {} for key in keys}
        again = LogDigest(self._log_id, lambda _: False)
        async with aclosing(read_until(self._log, 0, self._tally.end_sequence)) as runs:
            async for records in runs:
                again.begin(records)
                for record in records:
                    again.add(record)
                    where = route(record.subject, self._logged.fold_number_at(record.sequence))
                    events = logged.get(where[1:3])
                    if events is not None:
                        stored = record._replace(headers=author_headers(record.headers))
                        events[record.sequence] = digest_of(EMPTY_DIGEST, stored, again.recorded_at)
        return logged

    async def _stored_digests(self, key: Key) -> _Digests:
        async with aclosing(self._snapshot.items(*key)) as items:
            return {
                record.sequence: digest_of(EMPTY_DIGEST, record, recorded_at)
                async for item in items
                for record, recorded_at in _records(key, item)
            }

    def _report(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self._tally.differences += 1
            self._listener.difference(difference)


_Digests = dict[int, bytes]
"""Digests of single events by their sequence."""


def _named(counts: list[int]) -> dict[str, object]:
    return {"counts": {status.name: counts[status] for status in Status}}


def _position(checkpoint: Checkpoint) -> dict[str, object]:
    names = ("read_sequence", "last_sequence", "recorded_at", "fold", "chain_before", "chain")
    return {name: getattr(checkpoint, name) for name in names}


def _records(key: Key, item: Item) -> Iterator[tuple[Record, int]]:
    """Yield the records that a row keeps, with their monotone times."""
    if isinstance(item, Rejection):
        if key == UNROUTABLE and item.record is not None:
            yield item.record, item.recorded_at
        return
    entries = []
    if isinstance(item, StoredPage):
        entries = item.entries
    elif isinstance(item, StoredEntry):
        entries = [item.entry]
    where = Route.of(*key)
    for entry in entries:
        yield record_of(entry, where), entry.recorded_at


def _differences(key: Key, logged: _Digests, stored: _Digests) -> Iterator[Difference]:
    for sequence in sorted(logged.keys() | stored.keys()):
        if sequence not in stored:
            yield Difference(*key, sequence, "log", "event", "there", "missing")
        elif sequence not in logged:
            yield Difference(*key, sequence, "log", "event", "none", "there")
        elif logged[sequence] != stored[sequence]:
            yield Difference(*key, sequence, "log", "event", "as in the log", "another")
