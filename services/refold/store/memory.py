"""The reference twin of the SnapshotStore port: the same promises in plain Python, for tests.

Several `MemoryStore`s over one `Tables` are to each other as processes on one database.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter

from refold.core import canonical, page
from refold.core.document import ABSENT, Document
from refold.core.errors import FenceLost, Refused, StoreDiffers
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.core.identity import admit, id_digest, recall
from refold.core.limits import ANSWER_BYTES_MAX, SHARD_LEASE_SECONDS
from refold.core.page import NEVER, Clock, snapshot_of
from refold.core.shard import first_checkpoints
from refold.store import (
    Checkpoint,
    Commit,
    Dirty,
    Entry,
    Head,
    Key,
    Name,
    Names,
    NamespaceCount,
    Page,
    Point,
    Rejection,
    Run,
    Snapshot,
)
from refold.store.bounds import Bounds, first_bounds, next_bounds
from refold.store.cursor import read_cursor, write_cursor
from refold.store.memory_moment import MemoryMoment, closed_of
from refold.store.moment import Item, Moment, StoredEntry, StoredHead, StoredPage


@dataclass(slots=True)
class _Kept:
    """A document's row, its closed pages, and the open one. `state_version` is None where the state does not lag."""

    document: Document
    state: bytes | None
    state_version: int | None = None
    closed: list[Run] = field(default_factory=list)
    open: Run = field(default_factory=lambda: Run(NEVER, 0, []))

    @property
    def runs(self) -> list[Run]:
        return [*self.closed, self.open]

    @property
    def entries(self) -> list[Entry]:
        return [entry for run in self.runs for entry in run.entries]

    @property
    def head(self) -> Head:
        row = self.document
        return Head(row.namespace, row.document, snapshot_of(row, self.exact_state), row.last_sequence)

    @property
    def exact_state(self) -> bytes | None:
        if self.state_version is None:
            return self.state
        newest = Point(Clock.version, self.document.version)
        return page.state_at(self.run(Bounds.of(newest)), newest).state

    def show(self, state: bytes | None, version: int) -> None:
        self.state = state
        self.state_version = None if version == self.document.version else version

    def run(self, bounds: Bounds) -> Run:
        run = next(run for run in reversed(self.runs) if bounds.hold(run.base, run.base_sequence))
        return run._replace(entries=list(run.entries))

    def head_at(self, point: Point) -> Head:
        found = page.state_at(self.run(Bounds.of(point)), point)
        return Head(self.document.namespace, self.document.document, found, found.sequence)


@dataclass(slots=True)
class Tables:
    """All that a database would hold, who owns the shard, and when he last showed that he lives."""

    log_id: str | None = None
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    documents: dict[Key, _Kept] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    owner: object = None
    shown_at: float = 0.0


class MemoryStore:
    """A SnapshotStore in memory. `where` needs Postgres: it is refused here."""

    def __init__(
        self,
        tables: Tables | None = None,
        *,
        lease_seconds: float = SHARD_LEASE_SECONDS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stand over tables of its own, or over those of another."""
        self._tables = tables or Tables()
        self._lease_seconds = lease_seconds
        self._timer = timer

    async def bind(self, log_id: str) -> list[Checkpoint]:
        """Return the checkpoints; makes them at the log's start."""
        tables = self._tables
        if tables.log_id is None:
            tables.log_id = log_id
            tables.checkpoints = {made.partition: made for made in first_checkpoints(log_id)}
        if tables.log_id != log_id:
            raise StoreDiffers(expected=log_id, found=tables.log_id)
        return await self.checkpoints()

    async def own(self) -> bool:
        """Own the shard unless another store does, and has shown it lately."""
        tables, now = self._tables, self._timer()
        if tables.owner is None or now - tables.shown_at >= self._lease_seconds:
            tables.owner = self
        if tables.owner is self:
            tables.shown_at = now
        return tables.owner is self

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        """Load those documents that exist, with their id windows."""
        return [_loaded(self._tables.documents[key]) for key in set(keys) if key in self._tables.documents]

    async def commit(self, commit: Commit) -> None:
        """Write all of it or nothing."""
        tables = self._tables
        if tables.owner is not self:
            raise FenceLost
        tables.shown_at = self._timer()
        now = commit.checkpoint
        for partition in now.partitions:
            found = tables.checkpoints[partition].read_sequence
            if found != commit.expected_sequence:
                raise FenceLost(expected_sequence=commit.expected_sequence, found_sequence=found)
        for dirty in commit.documents:
            _write(tables.documents, dirty)
        tables.rejections.extend(commit.rejections)
        tables.checkpoints.update({moved.partition: _copied(moved) for moved in now.touched})
        for partition in now.partitions:
            moved = tables.checkpoints[partition]
            moved.read_sequence, moved.fold = now.read_sequence, now.fold
            moved.recorded_at = now.recorded_at

    async def lagging(self, *, after: Key, limit: int) -> list[Key]:
        """Name documents whose row's state lags, in order."""
        kept = sorted(self._tables.documents.items())
        return [key for key, row in kept if key > after and row.state_version is not None][:limit]

    async def settle(self, namespace: str, document: str) -> None:
        """Write a document's state as it is now into its row."""
        if self._tables.owner is not self:
            raise FenceLost
        kept = self._tables.documents.get((namespace, document))
        if kept:
            kept.show(kept.exact_state, kept.document.version)

    async def checkpoints(self) -> list[Checkpoint]:
        """Read the checkpoints as committed."""
        return [_copied(found) for _, found in sorted(self._tables.checkpoints.items())]

    async def head(self, namespace: str, document: str) -> Head | None:
        """Read a document's row."""
        kept = self._tables.documents.get((namespace, document))
        return kept.head if kept else None

    async def run_at(self, namespace: str, document: str, point: Point) -> Run | None:
        """Read the page that holds a point."""
        return self._run(namespace, document, Bounds.of(point))

    async def state_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        """Fold the run that holds a point up to it."""
        run = await self.run_at(namespace, document, point)
        return page.state_at(run, point) if run else None

    async def runs(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Run, None]:
        """Yield the runs of a document's history in the order asked."""
        run = self._run(namespace, document, first_bounds(after_version, is_descending=is_descending))
        while run:
            open_run = self._tables.documents[namespace, document].open
            is_last = run.base_sequence == (0 if is_descending else open_run.base_sequence)
            yield run
            run = (
                None
                if is_last
                else self._run(namespace, document, next_bounds(run, is_descending=is_descending))
            )

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        """Read one of a document's events with its outcome."""
        kept = self._tables.documents.get((namespace, document))
        entries = kept.entries if kept else []
        return next((entry for entry in entries if entry.sequence == sequence), None)

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        """Find the first event that carried this id in the document's id window."""
        for found in await self.load([(namespace, document)]):
            known = recall(found.identities, id_digest(event_id), found.events + 1 - ID_WINDOW_EVENTS)
            if known is not None:
                return await self.entry(namespace, document, known[1].sequence)
        return None

    async def list_documents(
        self, namespace: str, *, prefix: str, where: str | None, limit: int, cursor: str | None
    ) -> Page:
        """List present documents by id."""
        if where is not None:
            raise Refused("bad_where", "only Postgres knows SQL/JSON paths", field="where")
        found = self._listed(namespace, prefix, read_cursor(cursor))
        return _bounded((kept.head for kept in found), limit)

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        """List every document that ever had a version."""
        found = [
            Name(row.document, row.version, row.recorded_at, kept.state is not None)
            for kept in self._listed(namespace, prefix, read_cursor(cursor))
            if (row := kept.document).version
        ]
        return Names(found[:limit], write_cursor(found[limit - 1].document) if len(found) > limit else None)

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        """List what was present at a point."""
        found = self._listed(namespace, prefix, read_cursor(cursor))
        return _bounded((kept.head_at(point) for kept in found), limit)

    async def rejections(
        self, namespace: str, document: str, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        """Read what the fold refused of a document, newest first."""
        found = [
            rejection
            for rejection in self._tables.rejections
            if (rejection.namespace, rejection.document) == (namespace, document)
            and (before_sequence is None or rejection.sequence < before_sequence)
        ]
        return sorted(found, key=attrgetter("sequence"), reverse=True)[:limit]

    async def namespaces(self) -> list[NamespaceCount]:
        """Count documents and events by namespace."""
        documents: Counter[str] = Counter()
        events: Counter[str] = Counter()
        for (namespace, _), kept in self._tables.documents.items():
            documents[namespace] += kept.state is not None
            events[namespace] += kept.document.events
        return [NamespaceCount(name, documents[name], events[name]) for name in sorted(events)]

    @asynccontextmanager
    async def moment(self) -> AsyncIterator[Moment]:
        """Hold one moment of the whole projection."""
        kept = self._tables.documents.values()
        items = [item for each in kept for item in _items(each)]
        yield MemoryMoment(
            await self.checkpoints(), await self.namespaces(), [*items, *self._tables.rejections]
        )

    async def ping(self) -> None:
        """Be there."""

    async def close(self) -> None:
        """Let go of the shard."""
        if self._tables.owner is self:
            self._tables.owner = None

    def _run(self, namespace: str, document: str, bounds: Bounds) -> Run | None:
        kept = self._tables.documents.get((namespace, document))
        return kept.run(bounds) if kept else None

    def _listed(self, namespace: str, prefix: str, after: str) -> Iterator[_Kept]:
        for (name, document), kept in sorted(self._tables.documents.items()):
            if name == namespace and document > after and document.startswith(prefix):
                yield kept


def _bounded(found: Iterator[Head], limit: int) -> Page:
    heads: list[Head] = []
    answer_bytes = 0
    for head in found:
        if head.snapshot.state is None:
            continue
        answer_bytes += len(head.snapshot.state)
        if len(heads) == limit or (heads and answer_bytes > ANSWER_BYTES_MAX):
            return Page(heads, write_cursor(heads[-1].document))
        heads.append(head)
    return Page(heads, None)


def _write(documents: dict[Key, _Kept], dirty: Dirty) -> None:
    key = (dirty.document.namespace, dirty.document.document)
    assert dirty.is_new == (key not in documents), key
    row = replace(dirty.document, state=None, identities={})
    kept = documents.setdefault(key, _Kept(row, dirty.state))
    shown = kept.document.version if kept.state_version is None else kept.state_version
    kept.document = row
    if dirty.writes_state:
        kept.show(dirty.state, row.version)
    else:
        assert kept.state is not None, key
        kept.show(kept.state, shown)
    for cut in dirty.cuts:
        assert cut.has_journal == bool(kept.open.entries), key
        kept.open.entries.extend(cut.entries)
        kept.closed.append(kept.open)
        kept.open = Run(cut.closing, kept.open.entries[-1].sequence, [])
    kept.open.entries.extend(dirty.journal)


def _items(kept: _Kept) -> Iterator[Item]:
    row = kept.document
    yield StoredHead(replace(row, state=ABSENT), kept.state, kept.state_version)
    events = 0
    for run in kept.runs:
        is_open = run is kept.open
        if run.base_sequence or not is_open:
            closed = None if is_open else closed_of(list(run.entries))
            yield StoredPage(row.namespace, row.document, run.base, run.base_sequence, events, closed)
        events += len(run.entries)
    for entry in kept.open.entries:
        yield StoredEntry(row.namespace, row.document, entry)


def _loaded(kept: _Kept) -> Document:
    window: dict[bytes, bytes] = {}
    for entry in kept.entries[-ID_WINDOW_EVENTS:]:
        if entry.identity is not None:
            admit(window, entry.identity, ID_WINDOW_IDS)
    exact = kept.exact_state
    state = ABSENT if exact is None else canonical.loads(exact)
    return replace(kept.document, state=state, identities=window)


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, counts=replace(checkpoint.counts))
