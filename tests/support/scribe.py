"""A small log: folds published events, makes commits of them, and keeps every document's history.

For tests of the store's adapters: commits are real, and the oracle is a plain list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from refold.core import json_text
from refold.core.document import ABSENT, Document, Status
from refold.core.fold_state import FoldState
from refold.core.history import NEVER, Clock, Entry, Point, Snapshot, snapshot_of
from refold.core.stream import Checkpoint, Record, Route, route
from refold.store import PAGES_KEPT, ClosedPage, Commit, Depth, DocumentWrite, Key, Rejection, Resolution

NAMESPACE = "shop"
SECOND = 1_000_000_000
_START = 1_700_000_000 * SECOND


@dataclass
class _Unwritten:
    is_new: bool
    was_present: bool
    events_before: int
    journal: list[Entry] = field(default_factory=list)


class Scribe:
    """Publish and fold at once; `commit` returns what was published since the last one."""

    def __init__(self, checkpoints: list[Checkpoint]) -> None:
        self._shard = FoldState(checkpoints)
        self._committed_sequence = self._shard.read_sequence
        self._unwritten: dict[Key, _Unwritten] = {}
        self._pages: list[ClosedPage] = []
        self._rejections: list[Rejection] = []
        self._resolutions: list[Resolution] = []
        self._stated: set[Key] = set()
        self.documents: dict[Key, Document] = {}
        self.entries: dict[Key, list[Entry]] = defaultdict(list)
        self.snapshots: dict[Key, list[Snapshot]] = defaultdict(lambda: [NEVER])
        self.closed: dict[Key, list[tuple[Snapshot, int]]] = defaultdict(list)
        self.sequence = self._shard.read_sequence

    def publish(
        self,
        document: str,
        event: Any,
        *,
        namespace: str = NAMESPACE,
        at: int | None = None,
        **conflict: Any,
    ) -> Entry:
        """Fold one event, a JSON value or bytes; `at` seconds after the start, else one for each sequence.

        `conflict` and `reason` of the entry may be given: a store does not ask how they came about.
        """
        key = (namespace, document)
        self.sequence += 1
        body = event if isinstance(event, bytes) else json_text.dumps(event)
        seconds = self.sequence if at is None else at
        where = Route.of(*key)
        record = Record(self.sequence, _START + seconds * SECOND, where.subject, b"", body)
        row = self._head(key, where.partition)
        entry = self._shard.fold(record, where, row).entry._replace(**conflict)
        self._keep(key, row, entry)
        if entry.status is Status.rejected:
            refused = (*key, where.partition, entry.sequence, entry.recorded_at, entry.reason, entry.detail)
            self._rejections.append(Rejection(*refused, b'{"actor":"me\\u0000"}', None))
        return entry

    def resolve(self, document: str, sequence: int, *, namespace: str = NAMESPACE) -> Entry:
        """Publish an event that resolves another one."""
        entry = self.put(document, sequence, namespace=namespace)
        partition = Route.of(namespace, document).partition
        self._resolutions.append(Resolution(namespace, document, partition, sequence, entry.sequence))
        return entry

    def publish_nowhere(self, subject: bytes, body: bytes) -> Rejection:
        """Reject an event whose subject names no document."""
        self.sequence += 1
        record = Record(self.sequence, _START + self.sequence * SECOND, subject, b"A: b\r\n", body)
        where = route(subject)
        recorded_at = self._shard.reject(record, where)
        numbers = (where.partition, record.sequence, recorded_at)
        rejection = Rejection("", "", *numbers, where.reason, "subject", b"{}", record)
        self._rejections.append(rejection)
        return rejection

    def put(self, document: str, state: Any, **options: Any) -> Entry:
        """Publish a whole state."""
        return self.publish(document, {"put": state}, **options)

    def cut(self, document: str, *, namespace: str = NAMESPACE, is_whole: bool = False) -> None:
        """Close the document's page after its last event; `is_whole` with its committed events too."""
        key = (namespace, document)
        row, unwritten = self.documents[key], self._unwritten[key]
        assert unwritten.journal, "a page is cut behind an event of this commit"
        closing = self.snapshots[key][-1]
        page = ClosedPage(
            namespace=namespace,
            document=document,
            journal_events=row.unpaged_events - len(unwritten.journal),
            entries=self.entries[key][-row.unpaged_events :] if is_whole else unwritten.journal,
            is_whole=is_whole or row.unpaged_events == len(unwritten.journal),
            closing=closing,
            events=row.events,
        )
        self._pages.append(page)
        self.closed[key].append((closing, row.last_sequence))
        unwritten.journal = []
        row.unpaged_events = row.unpaged_bytes = 0
        row.page_bytes = len(closing.state or b"")

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints as they will be once everything is committed."""
        return self._shard.checkpoints()

    def commit(self, *, omitted: Collection[str] = ()) -> Commit:
        """Return one commit of all events since the last; the states of `omitted` are not written."""
        commit = Commit(
            expected_sequence=self._committed_sequence,
            checkpoint=self._shard.checkpoint(self._committed_sequence),
            documents=[
                self._write(key, unwritten, is_omitted=key[1] in omitted)
                for key, unwritten in self._unwritten.items()
            ],
            pages=self._pages,
            rejections=self._rejections,
            resolutions=self._resolutions,
        )
        self._unwritten, self._pages, self._rejections, self._resolutions = {}, [], [], []
        self._committed_sequence = self.sequence
        return commit

    def with_states(self, commit: Commit) -> Commit:
        """Add the states that the newest commit omits."""
        documents = [
            replace(
                write,
                state=state_bytes(self.documents[write.document.namespace, write.document.document]),
                has_state=True,
            )
            for write in commit.documents
        ]
        return replace(commit, documents=documents)

    def at(self, document: str, point: Point, *, namespace: str = NAMESPACE) -> Snapshot:
        """Find the last snapshot at or before a point, by a plain search."""
        places = {
            Clock.version: lambda found: found.version,
            Clock.sequence: lambda found: found.sequence,
            Clock.recorded: lambda found: found.recorded_at,
            Clock.occurred: lambda found: found.occurred_max,
        }
        snapshots = self.snapshots[namespace, document]
        return [NEVER, *(found for found in snapshots if places[point.clock](found) <= point.value)][-1]

    def oldest(self, document: str, depth: Depth, *, namespace: str = NAMESPACE) -> tuple[Snapshot, int]:
        """Return the base of the oldest segment that a store of a depth keeps, and its last sequence."""
        closed = self.closed[namespace, document]
        is_whole = depth is Depth.full or len(closed) <= PAGES_KEPT
        return (NEVER, 0) if is_whole else closed[-PAGES_KEPT - 1]

    def kept(self, document: str, depth: Depth, *, namespace: str = NAMESPACE) -> list[Entry]:
        """Return the entries that a store of a depth keeps."""
        _, after = self.oldest(document, depth, namespace=namespace)
        return [entry for entry in self.entries[namespace, document] if entry.sequence > after]

    def _head(self, key: Key, partition: int) -> Document:
        if key not in self.documents:
            self.documents[key] = Document(namespace=key[0], document=key[1], partition=partition)
        row = self.documents[key]
        before = _Unwritten(not row.events, row.state is not ABSENT, row.events)
        self._unwritten.setdefault(key, before)
        return row

    def _keep(self, key: Key, row: Document, entry: Entry) -> None:
        self.entries[key].append(entry)
        self._unwritten[key].journal.append(entry)
        row.unpaged_events += 1
        row.unpaged_bytes += len(entry.body)
        if entry.status.is_effective:
            self.snapshots[key].append(snapshot_of(row, state_bytes(row)))

    def _write(self, key: Key, unwritten: _Unwritten, *, is_omitted: bool) -> DocumentWrite:
        """Omit a state only if the row has one and the document is present."""
        row = self.documents[key]
        is_omitted = is_omitted and key in self._stated and row.state is not ABSENT
        self._stated -= {key}
        self._stated |= {key} if row.state is not ABSENT else set()
        return DocumentWrite(
            document=row.without_state(),
            state=None if is_omitted else state_bytes(row),
            is_new=unwritten.is_new,
            was_present=unwritten.was_present,
            added_events=row.events - unwritten.events_before,
            has_state=not is_omitted,
            journal=unwritten.journal,
        )


def state_bytes(document: Document) -> bytes | None:
    """Return a head's canonical bytes."""
    return None if document.state is ABSENT else json_text.dumps(document.state)
