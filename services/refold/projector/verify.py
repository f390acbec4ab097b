"""Proof that a projection is what its log makes of it: the log read once, every stored document folded again.

Run by `refold verify`; reads only, in one consistent view, and needs about 250 bytes a document.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from refold.core.checkpoint import Checkpoint, Counts
from refold.core.ledger import NOTHING, NOWHERE, Ledger, digest_of
from refold.core.limits import PARTITIONS, VERIFY_LOCATED_MAX
from refold.core.outcome import Status
from refold.core.record import Place, Record, place
from refold.log import EventLog
from refold.projector.locate import locate
from refold.projector.refusals import nowhere_rejection
from refold.projector.retrial import Difference, Retrial, shown
from refold.store import Key, NamespaceCount, Rejection
from refold.store.ports import Auditor, Item, ReadSnapshot, position_of

REPORT_EVERY: int = 500
"""Rows between two reports of progress."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a verification has come: the log read up to a sequence, documents and events folded again."""

    end_sequence: int = 0
    read_sequence: int = 0
    documents: int = 0
    events: int = 0
    differences: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Whom a verification tells: each difference when it is found, and now and then how far it has come."""

    difference: Callable[[Difference], None]
    progress: Callable[[Tally], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is verified: everything, a namespace, or one document."""

    namespace: str | None = None
    document: str | None = None

    def holds(self, where: Place) -> bool:
        """Tell whether a place lies within."""
        if self.namespace is None:
            return True
        return where.namespace == self.namespace and self.document in {None, where.document}


async def verify(log: EventLog, store: Auditor, listener: Listener, scope: Scope) -> Tally:
    """Hold the projection, as it is now, against the log. Raises `LogHole`, `StoreDiffers`, `FoldUnknown`."""
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
            self._tell(Difference("", "", end, "log", "last_sequence", str(end), str(info.last_sequence)))
            return self._tally
        ledger = Ledger(log_id, self._scope.holds)
        await self._read_log(ledger, end)
        self._hold_checkpoints(ledger.checkpoints(), stored)
        await self._try_documents(ledger)
        for key in list(ledger.digests):
            self._tell(Difference(*key, None, "document", "row", "there", "missing"))
        if self._scope.namespace is None:
            self._hold_counts(stored, ledger)
        await self._hold_namespaces()
        await self._locate()
        self._listener.progress(self._tally)
        return self._tally

    async def _read_log(self, ledger: Ledger, end: int) -> None:
        async with aclosing(records_until(self._log, end)) as runs:
            async for records in runs:
                for record in records:
                    ledger.add(record)
                self._tally.read_sequence = records[-1].sequence
                self._listener.progress(self._tally)

    async def _try_documents(self, ledger: Ledger) -> None:
        """Try document after document; each takes its digest out of the ledger."""
        retrial: Retrial | None = None
        rows = 0
        async with aclosing(self._snapshot.items(self._scope.namespace, self._scope.document)) as items:
            async for item in self._past_nowhere(items, ledger):
                key = position_of(item)[:2]
                if retrial is None or retrial.key != key:
                    self._close(retrial, ledger)
                    retrial = Retrial(key, ledger.fold_number_at)
                for difference in retrial.take(item):
                    self._tell(difference)
                rows += 1
                if rows % REPORT_EVERY == 0:
                    self._listener.progress(self._tally)
        self._close(retrial, ledger)

    def _close(self, retrial: Retrial | None, ledger: Ledger) -> None:
        if retrial is None:
            return
        for difference in retrial.finish():
            self._tell(difference)
        expected = ledger.digests.pop(retrial.key, NOTHING)
        if retrial.is_readable and retrial.digest != expected:
            self._suspects.append(retrial.key)
        self._tally.documents += 1
        self._tally.events += retrial.events
        counts = self._counts[retrial.partition]
        for status in Status:
            setattr(counts, status.name, getattr(counts, status.name) + getattr(retrial.counts, status.name))
        counted = self._namespaces.setdefault(retrial.key[0], [0, 0])
        counted[0] += retrial.is_present
        counted[1] += retrial.events

    async def _past_nowhere(self, items: AsyncIterator[Item], ledger: Ledger) -> AsyncGenerator[Item]:
        """Hold what made no document against the log's, then hand on the rest."""
        digest = NOTHING
        async for item in items:
            if position_of(item)[:2] != NOWHERE:
                yield item
                continue
            assert isinstance(item, Rejection)
            if item.record is not None:
                digest = digest_of(digest, item.record, item.recorded_at)
            self._hold_nowhere(item)
        if ledger.digests.pop(NOWHERE, NOTHING) != digest:
            self._suspects.append(NOWHERE)

    def _hold_nowhere(self, found: Rejection) -> None:
        if found.record is None:
            self._tell(Difference("", "", found.sequence, "rejection", "record", "the event", "none"))
            return
        expected = nowhere_rejection(place(found.record.subject), found.record, found.recorded_at)
        for name, value in expected._asdict().items():
            if name != "detail" and getattr(found, name) != value:
                told = (shown(value), shown(getattr(found, name)))
                self._tell(Difference("", "", found.sequence, "rejection", name, *told))

    def _hold_checkpoints(self, expected: list[Checkpoint], found: list[Checkpoint]) -> None:
        if len(found) != len(expected):
            told = (str(len(expected)), str(len(found)))
            self._tell(Difference("", "", None, "checkpoint", "rows", *told))
        for stored in found:
            made = expected[stored.partition]
            for name in ("read_sequence", "last_sequence", "recorded_at", "fold", "chain_before", "chain"):
                self._hold_checkpoint(stored.partition, name, getattr(made, name), getattr(stored, name))

    def _hold_checkpoint(self, partition: int, name: str, expected: object, found: object) -> None:
        if expected != found:
            field = f"partition {partition} {name}"
            self._tell(Difference("", "", None, "checkpoint", field, shown(expected), shown(found)))

    def _hold_counts(self, stored: list[Checkpoint], ledger: Ledger) -> None:
        """Count what the retrials made of every event; in vain where a document could not be read."""
        for checkpoint in stored:
            counts = self._counts[checkpoint.partition]
            counts.rejected += ledger.refused[checkpoint.partition]
            self._hold_checkpoint(checkpoint.partition, "counts", counts, checkpoint.counts)

    async def _hold_namespaces(self) -> None:
        if self._scope.document is not None:
            return
        expected = [NamespaceCount(name, *self._namespaces[name]) for name in sorted(self._namespaces)]
        wanted = self._scope.namespace
        found = [count for count in await self._snapshot.namespaces() if wanted in {None, count.namespace}]
        by_name = {count.namespace: count for count in found}
        for count in expected:
            other = by_name.pop(count.namespace, None)
            if count != other:
                self._tell(
                    Difference(count.namespace, "", None, "namespace", "counts", shown(count), shown(other))
                )
        for name, count in by_name.items():
            self._tell(Difference(name, "", None, "namespace", "counts", "none", shown(count)))

    async def _locate(self) -> None:
        """Name the events by which documents differ from the log."""
        named, rest = self._suspects[:VERIFY_LOCATED_MAX], self._suspects[VERIFY_LOCATED_MAX:]
        for key in rest:
            self._tell(Difference(*key, None, "log", "events", "those of the log", "others"))
        if named:
            runs = records_until(self._log, self._tally.end_sequence)
            async with aclosing(runs):
                for difference in await locate(runs, self._snapshot, named):
                    self._tell(difference)

    def _tell(self, difference: Difference) -> None:
        self._tally.differences += 1
        self._listener.difference(difference)


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
