"""Compare two stores of one log: checkpoints, counts, and every document, version and rejection that both keep.

Used by `refold store compare`. It only reads through the ports, so stores of any kind and depth can be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, Final, Generic, NamedTuple, TypeVar

from refold.audit import Difference, compare
from refold.core.document import Document, to_canonical
from refold.core.errors import HistoryElsewhere, StoreDamaged, raising_first
from refold.core.history import NEVER, Clock, Entry, Point, Snapshot
from refold.core.stream import Checkpoint
from refold.store import Key, Rejection, partition_of_key
from refold.store.ports import Reader

NAMES_MAX: Final = 500
"""Names that one read of a namespace's documents returns."""

REJECTIONS_MAX: Final = 500
"""Rejections that one read returns; a store of recent depth keeps a multiple of it."""

DOCUMENTS_AT_ONCE: Final = 4
"""Documents that are compared at the same time: most of it is waiting for the stores."""

COUNT_ATTEMPTS: Final = 2
"""Reads of the counts by namespace, which can only be compared while both stores have folded the same events."""

THERE: Final = "there"


class Side(NamedTuple):
    """One of the two stores, by the name that people know."""

    name: str
    reader: Reader

    def damage(self, error: StoreDamaged) -> str:
        """Describe damage; different from that of the other store, so that both are reported."""
        return f"unreadable: {error}"


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What was compared so far; `not_kept` counts entries, snapshots and rejections that a store of recent depth
    lacks.

    `sequence` is the lower committed sequence. Without `has_counts` the stores moved, and the counts by namespace were
    not compared. `documents_total` counts the present ones, about as many as there are.
    """

    sequence: int
    documents_total: int = 0
    documents: int = 0
    entries: int = 0
    snapshots: int = 0
    rejections: int = 0
    not_kept: int = 0
    differences: int = 0
    has_counts: bool = False


class Listener(NamedTuple):
    """What is called with each difference, and from time to time with how far it is."""

    difference: Callable[[Difference], None]
    progress: Callable[[Comparison], None]


def committed_sequence(checkpoints: list[Checkpoint]) -> int:
    """Return up to where a store has folded every partition; 0 before it was bound to a log."""
    return min((checkpoint.read_sequence for checkpoint in checkpoints), default=0)


async def compare_stores(first: Side, second: Side, listener: Listener) -> Comparison:
    """Compare two stores of one log up to what both have folded, partition by partition.

    What was folded later in one of them is left out. Documents that never had a version are not compared: chains,
    counts and rejections include their events. In a difference, `expected` is of the first store, `found` of the
    second. Raises what the ports raise, not `StoreDamaged` or `HistoryElsewhere`: they are reported or counted.
    """
    comparing = _Comparing(first, second, listener)
    await comparing.run()
    return comparing.comparison


class _Comparing:
    """One comparison, with the bounds up to which each partition is compared."""

    def __init__(self, first: Side, second: Side, listener: Listener) -> None:
        self.comparison = Comparison(sequence=0)
        self._sides = first, second
        self._listener = listener
        self._until: dict[int, int] = {}

    async def run(self) -> None:
        await self._compare_checkpoints()
        await self._compare_rejections("")
        for namespace in await self._compare_namespaces():
            await self._compare_rejections(namespace)
            batch: list[Key] = []
            async with aclosing(_merged(*(_walk(side.reader, namespace) for side in self._sides))) as names:
                async for document in names:
                    batch.append((namespace, document))
                    if len(batch) == DOCUMENTS_AT_ONCE:
                        await self._compare_documents(batch)
                        batch = []
            await self._compare_documents(batch)

    async def _compare_checkpoints(self) -> None:
        """Set the bounds, and compare the partitions of which both stores have folded the same events."""
        first, second = [{it.partition: it for it in await side.reader.checkpoints()} for side in self._sides]
        for partition in sorted(first.keys() & second.keys()):
            left, right = first[partition], second[partition]
            until = self._until[partition] = min(left.read_sequence, right.read_sequence)
            # A store that has read beyond the other's last event of the partition must have it too.
            if left.last_sequence == right.last_sequence or (
                max(left.last_sequence, right.last_sequence) <= until
            ):
                values = _chained(left), _chained(right)
                self._report(compare((f"partition {partition}", ""), until, "checkpoint", *values))
        if first.keys() == second.keys():
            self.comparison.sequence = min(self._until.values(), default=0)

    async def _compare_namespaces(self) -> list[str]:
        """Compare the counts by namespace, unless the stores move; return the namespaces of both."""
        names: list[str] = []
        for _ in range(COUNT_ATTEMPTS):
            before = await self._positions()
            first, second = [
                {it.namespace: it for it in await side.reader.namespaces()} for side in self._sides
            ]
            names = sorted(first.keys() | second.keys())
            self.comparison.documents_total = sum(it.documents for it in first.values())
            if before[0] == before[1] and before == await self._positions():
                self.comparison.has_counts = True
                for name in names:
                    counts = {"counts": first.get(name)}, {"counts": second.get(name)}
                    self._report(compare((name, ""), None, "namespace", *counts))
                break
        return names

    async def _positions(self) -> list[dict[int, int]]:
        return [
            {it.partition: it.last_sequence for it in await side.reader.checkpoints()} for side in self._sides
        ]

    async def _compare_documents(self, keys: Iterable[Key]) -> None:
        with raising_first():
            async with asyncio.TaskGroup() as tasks:
                for key in keys:
                    tasks.create_task(self._compare_document(key))
        self._listener.progress(self.comparison)

    async def _compare_document(self, key: Key) -> None:
        self.comparison.documents += 1
        until = self._until.get(partition_of_key(key), 0)
        rows = [await _read_row(side, key) for side in self._sides]
        if any(row.last_sequence > until for row in rows):
            point = Point(Clock.sequence, until)
            self._compare_snapshots(
                key, until, [await self._snapshot_at(it, key, point) for it in self._sides]
            )
        elif any(row.found != THERE for row in rows):
            self._report(compare(key, None, "document", *({"row": row.found} for row in rows)))
            return
        else:
            self._report(compare(key, None, "document", rows[0].fields, rows[1].fields))
        first, second = (_entries(side, key, until) for side in self._sides)
        async with aclosing(first), aclosing(second):
            # Documents are compared at the same time: the sum is read after the wait.
            compared = await self._compare_rows(lambda _: key, "event", first, second)
            self.comparison.entries += compared
        self._compare_damage(key, "page", first, second)
        if not first.damage and not second.damage:
            await self._compare_bases(key, first, second)

    async def _compare_rejections(self, namespace: str) -> None:
        """Compare the rejections of a namespace; with an empty name, those of events that name no document."""
        first, second = (_rejections(side, namespace, self._until) for side in self._sides)
        compared = await self._compare_rows(
            lambda it: (it.namespace, it.document), "rejection", first, second
        )
        self.comparison.rejections += compared
        self._compare_damage((namespace, ""), "rejections", first, second)

    def _compare_damage(self, key: Key, part: str, first: _Rows[Stored], second: _Rows[Stored]) -> None:
        damages = [{"content": rows.damage or "readable"} for rows in (first, second)]
        self._report(compare(key, None, part, *damages))

    async def _compare_rows(
        self, key_of: Callable[[Stored], Key], part: str, first: _Rows[Stored], second: _Rows[Stored]
    ) -> int:
        """Compare all rows, newest first, and return how many both have; those that one does not keep are counted."""
        compared = 0
        left, right = await first.next(), await second.next()
        while left is not None or right is not None:
            newer = max((it for it in (left, right) if it is not None), key=lambda it: it.sequence)
            at = newer.sequence
            here = left if left is not None and left.sequence == at else None
            there = right if right is not None and right.sequence == at else None
            if here is not None and there is not None:
                compared += 1
                if here != there:
                    self._report(compare(key_of(newer), at, part, here._asdict(), there._asdict()))
            elif (second if there is None else first).is_cut:
                self.comparison.not_kept += 1
            else:
                shown = ({"row": "missing" if entry is None else THERE} for entry in (here, there))
                self._report(compare(key_of(newer), at, part, *shown))
            left = left if here is None else await first.next()
            right = right if there is None else await second.next()
        return compared

    async def _compare_bases(self, key: Key, first: _Rows[Entry], second: _Rows[Entry]) -> None:
        """Compare the snapshots at each store's page ends with what the other has of the same versions."""
        for sequence in sorted(first.bases.keys() | second.bases.keys()):
            version = (first.bases.get(sequence) or second.bases[sequence]).version
            found: list[Snapshot | str | None] = [
                history.bases.get(sequence)
                or await self._snapshot_at(history.side, key, Point(Clock.version, version))
                for history in (first, second)
            ]
            self._compare_snapshots(key, sequence, found)

    def _compare_snapshots(self, key: Key, sequence: int, found: list[Snapshot | str | None]) -> None:
        first, second = found
        if first is None or second is None:
            self.comparison.not_kept += 1
            return
        self.comparison.snapshots += 1
        if isinstance(first, Snapshot) and isinstance(second, Snapshot):
            self._report(compare(key, sequence, "snapshot", first._asdict(), second._asdict()))
        else:
            shown = ({"content": it if isinstance(it, str) else "readable"} for it in found)
            self._report(compare(key, sequence, "snapshot", *shown))

    async def _snapshot_at(self, side: Side, key: Key, point: Point) -> Snapshot | str | None:
        """Read a document at a point: its snapshot, why it cannot be read, or None where it is not kept."""
        try:
            return _hashed(await side.reader.snapshot_at(*key, point) or NEVER)
        except HistoryElsewhere:
            return None
        except StoreDamaged as error:
            return side.damage(error)

    def _report(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self.comparison.differences += 1
            self._listener.difference(difference)


Stored = TypeVar("Stored", Entry, Rejection)


class _Rows(Generic[Stored]):
    """One store's rows, newest first. `bases` are the snapshots that were passed, as `_entries` fills it.

    After the end, `is_cut` says that older rows are not kept, or cannot be read: `damage` says why.
    """

    def __init__(self, side: Side, rows: AsyncGenerator[Stored], bases: dict[int, Snapshot]) -> None:
        self.side = side
        self.bases = bases
        self.is_cut = False
        self.damage = ""
        self._rows: AsyncGenerator[Stored] = rows

    async def next(self) -> Stored | None:
        """Return the next older row; None at the end."""
        try:
            return await anext(self._rows, None)
        except HistoryElsewhere:
            self.is_cut = True
        except StoreDamaged as error:
            self.is_cut, self.damage = True, self.side.damage(error)
        return None

    async def aclose(self) -> None:
        await self._rows.aclose()


def _entries(side: Side, key: Key, until: int) -> _Rows[Entry]:
    """Read a document's entries up to a sequence, and its snapshots by the sequence of the last event in them."""
    bases: dict[int, Snapshot] = {}

    async def read() -> AsyncGenerator[Entry]:
        segments = side.reader.segments(*key, after_version=None, is_descending=True)
        async with aclosing(segments):
            async for segment in segments:
                if segment.base.version and segment.base_sequence <= until:
                    bases[segment.base_sequence] = _hashed(segment.base)
                for entry in reversed(segment.entries):
                    if entry.sequence <= until:
                        yield entry

    return _Rows(side, read(), bases)


def _rejections(side: Side, namespace: str, until_by: Mapping[int, int]) -> _Rows[Rejection]:
    """Read a namespace's rejections up to a sequence of each partition, without what resolved them later."""

    async def read() -> AsyncGenerator[Rejection]:
        before: int | None = None
        while True:
            rows = await side.reader.rejections(namespace, None, limit=REJECTIONS_MAX, before_sequence=before)
            for row in rows:
                until = until_by.get(row.partition, 0)
                if row.sequence <= until:
                    yield row if (row.resolved_by or 0) <= until else row._replace(resolved_by=None)
            if len(rows) < REJECTIONS_MAX:
                return
            before = rows[-1].sequence

    return _Rows(side, read(), {})


class _Row(NamedTuple):
    """What a store has of a document at its head; `found` says whether it is there, or why it cannot be read."""

    last_sequence: int
    found: str
    fields: dict[str, Any]


async def _read_row(side: Side, key: Key) -> _Row:
    """Read a head and the document with its counts and dedup window, which may be newer."""
    try:
        head = await side.reader.head(*key)
        documents = await side.reader.load([key])
    except StoreDamaged as error:
        return _Row(0, side.damage(error), {})
    if head is None or not documents:
        return _Row(0, "missing", {})
    document = documents[0]
    columns = {name: getattr(document, name) for name in _COLUMNS}
    shown = {f"head {name}": value for name, value in head.snapshot._asdict().items()}
    last_sequence = max(head.last_sequence, document.last_sequence)
    return _Row(last_sequence, THERE, {**columns, "state": to_canonical(document.state), **shown})


async def _walk(reader: Reader, namespace: str) -> AsyncGenerator[str]:
    """Yield the names of all documents that ever had a version, in order."""
    cursor = None
    while True:
        found = await reader.list_names(namespace, prefix="", limit=NAMES_MAX, cursor=cursor)
        for name in found.names:
            yield name.document
        cursor = found.cursor
        if cursor is None:
            return


async def _merged(first: AsyncGenerator[str], second: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """Yield the names of both in order, each once."""
    async with aclosing(first), aclosing(second):
        left, right = await anext(first, None), await anext(second, None)
        while left is not None or right is not None:
            name = min(it for it in (left, right) if it is not None)
            yield name
            left = await anext(first, None) if left == name else left
            right = await anext(second, None) if right == name else right


def _chained(checkpoint: Checkpoint) -> dict[str, Any]:
    names = ("last_sequence", "chain_before", "chain", "counts")
    return {name: getattr(checkpoint, name) for name in names}


def _hashed(snapshot: Snapshot) -> Snapshot:
    """Return it with the SHA-256 of its state instead of the state."""
    if snapshot.state is None:
        return snapshot
    return snapshot._replace(state=sha256(snapshot.state).digest())


_PAGING: Final = {"unpaged_events", "unpaged_bytes", "page_bytes"}
"""Not compared: where pages end may differ between stores."""

_COLUMNS: Final = [it.name for it in fields(Document) if it.compare and it.name not in {"state", *_PAGING}]
