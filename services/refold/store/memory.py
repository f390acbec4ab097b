"""A store in plain Python, of full or recent depth: the reference that the other adapters are compared with.

Several `MemoryStore`s over one `Tables` behave like processes on one database.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import attrgetter

from refold.core.dedup import admit, id_digest, recall
from refold.core.document import ABSENT, Document, from_canonical
from refold.core.errors import FenceLost, HistoryElsewhere, StoreDiffers
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.core.fold_state import first_checkpoints
from refold.core.history import NEVER, Entry, Point, Segment, Snapshot
from refold.core.stream import Checkpoint, ClockRange
from refold.store import (
    ANSWER_BYTES_MAX,
    ANY_VERSION,
    PAGES_KEPT,
    SHARD_LEASE_SECONDS,
    Capabilities,
    ClosedPage,
    Commit,
    Depth,
    Head,
    Key,
    Name,
    Names,
    NamespaceCount,
    Page,
    Rejection,
    VersionAt,
    read_cursor,
    refuse_where,
    write_cursor,
)
from refold.store.memory_tables import Kept, Lease, Tables, write
from refold.store.ports import (
    Item,
    OpenCommit,
    ReadSnapshot,
    StoredEntry,
    StoredHead,
    StoredPage,
    Unreadable,
    position_of,
)
from refold.store.recent import (
    RecentHistory,
    RecentRejections,
    is_beyond,
    newest_rejections,
    rejections_kept_max,
)


@dataclass(slots=True)
class _OpenCommit:
    """An OpenCommit that keeps everything until the end of its block."""

    pages: list[ClosedPage] = field(default_factory=list)
    commit: Commit | None = None

    async def write_pages(self, pages: Sequence[ClosedPage]) -> None:
        self.pages += pages

    async def write(self, commit: Commit) -> None:
        self.commit = commit


class MemoryStore:
    """A SnapshotStore in memory; `refold.store.ports` says what each method does."""

    flush_seconds = 0.0

    def __init__(
        self,
        tables: Tables | None = None,
        *,
        shard: str = "",
        depth: Depth = Depth.full,
        lease_seconds: float = SHARD_LEASE_SECONDS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use tables of its own, or those of another store; `depth` is how much of them the readers see."""
        self.capabilities = Capabilities(depth=depth, has_where=False)
        self._tables = tables or Tables()
        self._shard = shard
        self._lease_seconds = lease_seconds
        self._timer = timer

    async def bind(self, log_id: str) -> list[Checkpoint]:
        tables = self._tables
        if tables.log_id is None:
            tables.log_id = log_id
            tables.checkpoints = {made.partition: made for made in first_checkpoints(log_id)}
        if tables.log_id != log_id:
            raise StoreDiffers(expected=log_id, found=tables.log_id)
        return await self.checkpoints()

    async def acquire_lease(self) -> bool:
        now = self._timer()
        lease = self._tables.leases.get(self._shard)
        if lease is None or lease.holder is self or now - lease.renewed_at >= self._lease_seconds:
            self._tables.leases[self._shard] = Lease(self, now)
        return self._tables.leases[self._shard].holder is self

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        return [_loaded(self._tables.documents[key]) for key in set(keys) if key in self._tables.documents]

    @asynccontextmanager
    async def open_commit(self) -> AsyncIterator[OpenCommit]:
        opened = _OpenCommit()
        yield opened
        assert opened.commit is not None, "the block wrote no commit"
        await self.commit(replace(opened.commit, pages=[*opened.pages, *opened.commit.pages]))

    async def commit(self, commit: Commit) -> str:
        tables = self._tables
        lease = tables.leases.get(self._shard)
        if lease is None or lease.holder is not self:
            raise FenceLost
        lease.renewed_at = self._timer()
        now = commit.checkpoint
        for partition in now.partitions:
            found = tables.checkpoints[partition].read_sequence
            if found != commit.expected_sequence:
                raise FenceLost(expected_sequence=commit.expected_sequence, found_sequence=found)
        write(tables.documents, commit)
        tables.rejections.extend(commit.rejections)
        resolved = {(*it[:2], it.sequence): it.resolved_by for it in commit.resolutions}
        for at, it in enumerate(tables.rejections if resolved else ()):
            if it.is_open:
                tables.rejections[at] = it._replace(resolved_by=resolved.get((*it[:2], it.sequence)))
        tables.checkpoints.update({moved.partition: _copied(moved) for moved in now.touched})
        tables.clock.update({(each.first_sequence, each.recorded_at): each for each in now.clock})
        for partition in now.partitions:
            moved = tables.checkpoints[partition]
            moved.read_sequence, moved.fold = now.read_sequence, now.fold
            moved.recorded_at = now.recorded_at
        return "single"

    def wants_state(self, document: Document, *, is_changed: bool) -> bool:  # noqa: ARG002
        """Want every state: they cost nothing here."""
        return True

    async def flush_states(self, *, is_final: bool = False) -> int:  # noqa: ARG002
        """Do nothing: no state is left out."""
        return 0

    async def checkpoints(self) -> list[Checkpoint]:
        return [_copied(found) for _, found in sorted(self._tables.checkpoints.items())]

    async def epoch(self) -> str:
        return self._tables.epoch

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        kept = self._tables.documents.get((namespace, document))
        if kept is not None and known_version in {ANY_VERSION, kept.document.version}:
            return _bare(kept.head)
        return kept.head if kept else None

    async def other_versions(self, known: Mapping[Key, VersionAt]) -> dict[Key, VersionAt]:
        rows = self._tables.documents
        heads = {key: rows[key].head.snapshot if key in rows else NEVER for key in known}
        found = {key: VersionAt(head.version, head.sequence) for key, head in heads.items()}
        return {key: at for key, at in found.items() if at != known[key]}

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        history = self._history(namespace, document)
        return history.snapshot_at(point) if history else None

    async def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        history = self._history(namespace, document)
        if history is not None:
            history = replace(
                history, segments=[it._replace(entries=[*it.entries]) for it in history.segments]
            )
            for segment in history.read(after_version, is_descending=is_descending):
                yield segment

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        history = self._history(namespace, document)
        return history.entry(sequence) if history else None

    async def entries_between(
        self, namespace: str, documents: Sequence[str], *, after_sequence: int, until_sequence: int
    ) -> list[tuple[str, Entry]]:
        found = [
            (document, entry)
            for document in documents
            if (history := self._history(namespace, document)) is not None
            for entry in history.between(after_sequence, until_sequence)
        ]
        return sorted(found, key=lambda it: it[1].sequence)

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        for found in await self.load([(namespace, document)]):
            known = recall(found.identities, id_digest(event_id), found.events + 1 - ID_WINDOW_EVENTS)
            if known is not None:
                return await self.entry(namespace, document, known[1].sequence)
        return None

    async def list_documents(
        self,
        namespace: str,
        *,
        prefix: str,
        where: str | None,
        limit: int,
        cursor: str | None,
        is_bare: bool = False,
    ) -> Page:
        refuse_where(where)
        found = self._listed(namespace, prefix, read_cursor(cursor))
        heads = (kept.head for kept in found)
        return _bounded(map(_bare, heads) if is_bare else heads, limit)

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        found = [
            Name(row.document, row.version, row.recorded_at, kept.state is not None)
            for kept in self._listed(namespace, prefix, read_cursor(cursor))
            if (row := kept.document).version
        ]
        return Names(found[:limit], write_cursor(found[limit - 1].document) if len(found) > limit else None)

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        found = self._listed(namespace, prefix, read_cursor(cursor))
        if self._is_recent:
            raise HistoryElsewhere("lists as of a point are not kept", namespace=namespace)
        return _bounded((kept.head_at(point) for kept in found), limit)

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        by_namespace: dict[str, list[Rejection]] = {}
        for rejection in sorted(self._rejections_of(namespace, None), key=_sequence, reverse=True):
            by_namespace.setdefault(rejection.namespace, []).append(rejection)
        found = []
        for name, rejections in by_namespace.items():
            kept_max = rejections_kept_max(name) if self._is_recent else len(rejections)
            is_all = len(rejections) <= kept_max
            found.append(RecentRejections(found=rejections[:kept_max], is_all=is_all))
        return newest_rejections(found, document, limit=limit, before_sequence=before_sequence)

    async def conflicts(
        self, namespace: str, document: str, *, after_sequence: int | None, is_descending: bool
    ) -> AsyncGenerator[list[Entry]]:
        history = self._history(namespace, document)
        if history is not None:
            for found in history.conflicts(after_sequence, is_descending=is_descending):
                yield found

    async def open_conflicts(
        self,
        namespace: str | None,
        document: str | None,
        *,
        after_sequence: int | None,
        is_descending: bool,
        limit: int,
    ) -> list[Rejection]:
        found = [
            rejection
            for rejection in self._rejections_of(namespace, document)
            if rejection.is_open
            and is_beyond(rejection.sequence, after_sequence, is_descending=is_descending)
        ]
        return sorted(found, key=_sequence, reverse=is_descending)[:limit]

    async def namespaces(self) -> list[NamespaceCount]:
        documents: Counter[str] = Counter()
        events: Counter[str] = Counter()
        for (namespace, _), kept in self._tables.documents.items():
            documents[namespace] += kept.state is not None
            events[namespace] += kept.document.events
        return [NamespaceCount(name, documents[name], events[name]) for name in sorted(events)]

    @asynccontextmanager
    async def read_snapshot(self) -> AsyncIterator[ReadSnapshot]:
        tables = self._tables
        documents = {key: kept.copy() for key, kept in tables.documents.items()}
        checkpoints = {found.partition: found for found in await self.checkpoints()}
        yield MemoryStore(Tables(tables.log_id, checkpoints, documents, tables.rejections.copy()))

    async def damages(self) -> list[Unreadable]:
        return []

    async def items(self, namespace: str | None, document: str | None) -> AsyncGenerator[Item]:
        """Be a ReadSnapshot, too: of tables that nothing else changes."""
        stored = [item for kept in self._tables.documents.values() for item in _items(kept)]
        for item in sorted([*stored, *self._tables.rejections], key=position_of):
            name = position_of(item)
            if namespace in {None, name[0]} and document in {None, name[1]}:
                yield item

    async def clock(self) -> list[ClockRange]:
        return list(self._tables.clock.values())

    async def ping(self) -> None:
        """Do nothing: memory is always reachable."""

    async def close(self) -> None:
        """Release the lease."""
        lease = self._tables.leases.get(self._shard)
        if lease is not None and lease.holder is self:
            del self._tables.leases[self._shard]

    @property
    def _is_recent(self) -> bool:
        return self.capabilities.depth is Depth.recent

    def _history(self, namespace: str, document: str) -> RecentHistory | None:
        key = (namespace, document)
        if key not in self._tables.documents:
            return None
        segments = self._tables.documents[key].segments
        return RecentHistory(key=key, segments=segments[-PAGES_KEPT - 1 :] if self._is_recent else segments)

    def _rejections_of(self, namespace: str | None, document: str | None) -> Iterator[Rejection]:
        for rejection in self._tables.rejections:
            if namespace in {None, rejection.namespace} and document in {None, rejection.document}:
                yield rejection

    def _listed(self, namespace: str, prefix: str, after: str) -> Iterator[Kept]:
        for (name, document), kept in sorted(self._tables.documents.items()):
            if name == namespace and document > after and document.startswith(prefix):
                yield kept


_sequence = attrgetter("sequence")


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


def _bare(head: Head) -> Head:
    return head if head.snapshot.state is None else head.without_state()


def _items(kept: Kept) -> Iterator[Item]:
    row, key = kept.document, (kept.document.namespace, kept.document.document)
    yield StoredHead(replace(row, state=ABSENT), kept.state, None)
    events = 0
    for segment, following in pairwise(kept.segments):
        events += len(segment.entries)
        yield StoredPage.of(key, segment.entries, following.base, events)
    for entry in kept.segments[-1].entries:
        yield StoredEntry(*key, entry)


def _loaded(kept: Kept) -> Document:
    window: dict[bytes, bytes] = {}
    for entry in kept.entries[-ID_WINDOW_EVENTS:]:
        if entry.identity is not None:
            admit(window, entry.identity, ID_WINDOW_IDS)
    return replace(kept.document, state=from_canonical(kept.state), identities=window)


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, counts=checkpoint.counts.copy())
