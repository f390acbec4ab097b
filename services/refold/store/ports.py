"""The ports of a store: one for each of its users.

A store that keeps everything implements all of them (`SnapshotStore`). Every method may raise `StoreUnavailable`,
`StoreFull`, `StoreDiffers` or `StoreDamaged`, which are all `StoreError`; docstrings name what else they raise.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, Self

from refold.core.dedup import pack_identities
from refold.core.document import Document
from refold.core.history import Entry, Point, Segment, Snapshot
from refold.core.stream import Checkpoint, ClockRange
from refold.store import (
    BoundLog,
    Capabilities,
    ClosedPage,
    Commit,
    Connections,
    Head,
    Key,
    Names,
    NamespaceCount,
    Page,
    Rejection,
    VersionAt,
)


class OpenCommit(Protocol):
    """A commit that begins with its pages: they are written while the rest of it is still being folded."""

    async def write_pages(self, pages: Sequence[ClosedPage]) -> None:
        """Write pages, which no reader sees before the commit; without any, show that the lease's holder is alive."""

    async def write(self, commit: Commit) -> None:
        """Write the rest, once, at the end of the block. Raises what `ProjectionWriter.commit` raises."""


class ProjectionWriter(Protocol):
    """What a projector needs: a fenced lease on a shard, and commits."""

    async def bind(self, log_id: str) -> list[Checkpoint]:
        """Return the checkpoints by partition. Create them at the log's start; refuse another log's."""

    async def acquire_lease(self) -> bool:
        """Acquire or renew the shard's lease; False while another holds it.

        A holder that neither renews it nor commits for `SHARD_LEASE_SECONDS` loses it to the next that asks.
        """

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        """Load those documents that exist, with their dedup windows."""

    async def commit(self, commit: Commit) -> str:
        """Write all of it or nothing; return how: `single` (a statement), `copy` (several) or `sync` (on the disk).

        Raises `FenceLost` where a checkpoint is not as expected or the lease is not held, and `StoreUnavailable` with
        the fact `is_unknown=True` where only the checkpoints can tell what was written.
        """

    def open_commit(self) -> AbstractAsyncContextManager[OpenCommit]:
        """Begin a commit. The end of the block commits what was written there; an error in it discards all.

        The store's lease cannot be acquired or renewed meanwhile. Leaving the block raises what `commit` raises.
        """

    async def checkpoints(self) -> list[Checkpoint]:
        """Read the committed checkpoints."""

    def wants_state(self, document: Document, *, is_changed: bool) -> bool:
        """Tell whether the commit that is made now should carry a document's state.

        A store for which a large state is expensive may leave it to `flush_states`; its reads are exact all the same.
        Only the holder of the lease asks, once for each document of a commit, and then commits.
        """

    @property
    def flush_seconds(self) -> float:
        """How often `flush_states` is due; 0 where a store never leaves a state out."""

    async def flush_states(self, *, is_final: bool = False) -> int:
        """Write states that were left out of commits, where they are due, or all at last; return how many are left."""

    async def close(self) -> None:
        """Release connections and the lease."""


class LatestReader(Protocol):
    """The newest state: heads, lists, counts."""

    @property
    def capabilities(self) -> Capabilities:
        """Say what this store can do."""

    async def checkpoints(self) -> list[Checkpoint]:
        """Read the committed checkpoints."""

    async def epoch(self) -> str:
        """Read which projection this is: another one after a rebuild, or after the store was emptied."""

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        """Read a document's head; None where it never had an event.

        The state of a present document is `OMITTED` at `known_version`, and at every version for `ANY_VERSION`.
        """

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        """Load those documents that exist, with their dedup windows."""

    async def other_versions(self, known: Mapping[Key, VersionAt]) -> dict[Key, VersionAt]:
        """Return the versions of those documents that are not at the version that is given; all from one moment."""

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
        """List present documents by id, bounded by `limit` and `ANSWER_BYTES_MAX` (at least one is answered).

        With `is_bare`, every state is `OMITTED`, and the bytes of states are no bound.
        Raises `Refused` (`bad_where`, `bad_cursor`), and `TimedOut` where the search by `where` takes too long.
        """

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        """List every document that ever had a version, by id, absent ones too. Raises `Refused` (`bad_cursor`)."""

    async def namespaces(self) -> list[NamespaceCount]:
        """Count documents and events by namespace."""

    async def ping(self) -> None:
        """Raise where the store cannot be reached."""


class HistoryReader(Protocol):
    """The past: the segments of a document's history, single events, lists as of a point.

    A store of recent depth raises `HistoryElsewhere` for what it does not keep: None says that there is none.
    """

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        """Read the document as it was at a point; None where it never had an event."""

    def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        """Yield a document's segments in the requested order, from the one that holds `after_version`."""

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        """Read one of a document's events with its outcome."""

    async def entries_between(
        self, namespace: str, documents: Sequence[str], *, after_sequence: int, until_sequence: int
    ) -> list[tuple[str, Entry]]:
        """Read the effective events of documents after a sequence up to another, in the order of the log.

        The caller bounds how many these are. Documents that never had an event have none.
        """

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        """Find the first event that carried this id in the document's dedup window."""

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        """Read rejections, newest first: of a document, of a namespace (document None), or all (both None).

        With empty names: those of events that name no document.
        """

    def conflicts(
        self, namespace: str, document: str, *, after_sequence: int | None, is_descending: bool
    ) -> AsyncGenerator[list[Entry]]:
        """Yield a document's entries that have a conflict, in the requested order, beyond a sequence.

        One list for each page that has any, perhaps empty; pages without are not read.
        """

    async def open_conflicts(
        self,
        namespace: str | None,
        document: str | None,
        *,
        after_sequence: int | None,
        is_descending: bool,
        limit: int,
    ) -> list[Rejection]:
        """Read open rejections (`Rejection.is_open`) beyond a sequence, in the requested order.

        Of a document, of a namespace (document None), or of all (both None).
        """

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        """List what was present at a point (by sequence, recorded or occurred time).

        Bounded as `list_documents` is. A head is the document as it was, its `last_sequence` the version's own.
        A page with a cursor may be short or empty: the search is bounded, too. Raises `Refused` (`bad_cursor`).
        """


class Reader(LatestReader, HistoryReader, Protocol):
    """What a gateway reads."""


class RecentReader(Reader, Protocol):
    """A store of recent depth: also what one document's events do not tell of its older history."""

    async def clock(self) -> list[ClockRange]:
        """Read all ranges that commits wrote, in any order; those of several shards may overlap."""


class StoredHead(NamedTuple):
    """A document's row: its columns (without state and dedup window), and its state's bytes.

    `state_version` is the state's version where the state is older than the row, else None.
    """

    document: Document
    state: bytes | None
    state_version: int | None


class StoredPage(NamedTuple):
    """A page's row: its entries, the snapshot after the last of them, and the columns that are made of them.

    `events` counts the document's events up to the end of the page, `ids` the identities of its own entries and
    `conflicts` those of them that have a conflict.
    """

    namespace: str
    document: str
    entries: list[Entry]
    closing: Snapshot
    last_sequence: int
    events: int
    ids: int
    identities: bytes
    conflicts: int

    @classmethod
    def of(cls, key: Key, entries: list[Entry], closing: Snapshot, events: int) -> Self:
        """Return the page of these entries, at least one."""
        identities = [entry.identity for entry in entries if entry.identity is not None]
        packed = pack_identities(identities)
        conflicts = sum(entry.conflict is not None for entry in entries)
        return cls(*key, entries, closing, entries[-1].sequence, events, len(identities), packed, conflicts)


class StoredEntry(NamedTuple):
    """A journal's row."""

    namespace: str
    document: str
    entry: Entry


class Unreadable(NamedTuple):
    """What cannot be read: a `document`, `page`, `journal`, `rejection`, `dictionary` or the `file`; and why."""

    namespace: str
    document: str
    sequence: int
    part: str
    why: str


Item = StoredHead | StoredPage | StoredEntry | Unreadable | Rejection


def position_of(item: Item) -> tuple[str, str, int]:
    """Return an item's sort key: by document, its row first, then by sequence, a page by its last event's.

    At one sequence, a rejection comes before its event, and that before the page that ends with it.
    """
    if isinstance(item, StoredHead):
        return item.document.namespace, item.document.document, -1
    if isinstance(item, StoredPage):
        return item.namespace, item.document, 4 * item.last_sequence + 2
    if isinstance(item, StoredEntry):
        return item.namespace, item.document, 4 * item.entry.sequence + 1
    return item.namespace, item.document, 4 * item.sequence + (2 if isinstance(item, Unreadable) else 0)


class ReadSnapshot(Protocol):
    """One consistent view of a projection, whatever is written meanwhile."""

    async def checkpoints(self) -> list[Checkpoint]:
        """Read every partition's checkpoint."""

    async def namespaces(self) -> list[NamespaceCount]:
        """Read the counts by namespace."""

    async def damages(self) -> list[Unreadable]:
        """Check what is no row of a document: indexes, and dictionaries of values."""

    def items(self, namespace: str | None, document: str | None) -> AsyncGenerator[Item]:
        """Yield rows, pages, journal and rejections in the order of `position_of`; of all, a namespace or a document.

        Events whose subject names no document come first, as rejections with empty names, and only in a read of all.
        """


class Auditor(Protocol):
    """What `verify` needs. The other half, swapping two projections, is `SchemaSwap`."""

    async def bind(self, log_id: str) -> list[Checkpoint]:
        """Return the checkpoints; refuse another log's."""

    def read_snapshot(self) -> AbstractAsyncContextManager[ReadSnapshot]:
        """Hold one consistent view of the projection, to be read row by row."""


class Store(ProjectionWriter, Reader, Protocol):
    """A store of any depth: what a projector folds into and a gateway reads."""


class SnapshotStore(Store, Auditor, Protocol):
    """A store of full depth."""


class Connected(Protocol):
    """What every adapter can do as a client of its server, or as the user of its files."""

    def refuse_stale(
        self,
        sent_sequences: Callable[[], Sequence[int]],
        end_sequence: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """Refuse to read (`StoreUnavailable`) from a store that has lost commits in a crash, until they are redone.

        Each partition must have folded `sent_sequences`, by partition. Commits may also have been read and not sent:
        once every connection is lost, all must have folded `end_sequence`, the log's end. In Redis and in files, a
        projection that takes the place of one that was emptied must have folded as much as could be read of that.
        """

    @property
    def connections(self) -> Connections:
        """Count the connections of this process for reads."""

    async def server_version(self) -> str:
        """Return the version of the server, after its name where it is not the store's kind, or of SQLite's library."""


class Row(NamedTuple):
    """What is compared of a document; `state_hash` is the SHA-256 of its canonical bytes, None where it is absent."""

    version: int
    last_sequence: int
    state_hash: str | None


class Unequal(NamedTuple):
    """A document, or (with empty names) a checkpoint or count, that differs between two projections.

    With `state_version` they may be equal: nothing differs but that the live row has the state of that older version.
    """

    namespace: str
    document: str
    live: Row | str | None
    fresh: Row | str | None
    state_version: int | None = None


class SchemaSwap(Protocol):
    """A fresh projection that is to replace the live one of the same log, in one database."""

    async def bound(self) -> BoundLog | None:
        """Read what the live projection was made from, though it may be damaged; None where that cannot be read."""

    async def prepare(self) -> None:
        """Raise `StoreDiffers` where something reads the live projection and would not follow the swap."""

    async def copy_indexes(self) -> None:
        """Create the indexes on the fresh projection that were added to the live one."""

    def unequal(self, after_sequence: int, until_sequence: int) -> AsyncGenerator[Unequal]:
        """Compare documents that changed after one sequence, and in the live projection not after the other."""

    def unequal_counts(self) -> AsyncGenerator[Unequal]:
        """Compare the checkpoints and counts, while the live projection is held."""

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Keep commits out of the live projection. Raises `StoreUnavailable` where the locks are not free in time."""

    async def swap(self) -> None:
        """Replace the live projection, which is held, by the fresh one when the hold ends."""

    async def drop_former(self) -> None:
        """Drop the projection that was replaced, unless it is to be kept."""
