"""The SnapshotStore port: heads, journal, pages, rejections and checkpoints; a commit is ONE call.

Adapters: `refold.store.postgres` (the real one) and `refold.store.memory` (the reference twin).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from refold.core.checkpoint import Checkpoint, Counts, ShardCheckpoint
from refold.core.document import Document
from refold.core.outcome import Entry
from refold.core.page import Point, Run, Snapshot
from refold.core.record import Record

if TYPE_CHECKING:
    from refold.store.moment import Moment

Key = tuple[str, str]
"""Namespace and document."""


class Head(NamedTuple):
    """A document's row: the head's snapshot and what the row says of its events."""

    namespace: str
    document: str
    snapshot: Snapshot
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A page is full: the document's entries up to here become one.

    Those of earlier commits still stand in the journal (`has_journal`); `entries` are this commit's own.
    `closing` is the snapshot after the last of them, which opens the next page.
    """

    entries: list[Entry]
    closing: Snapshot
    has_journal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirty:
    """What one commit writes of one document: its head, pages cut in order, and entries for the journal.

    `state` is the head's canonical bytes, None where it is absent. `is_new`: the store has no row of it yet.
    Not `writes_state`: the row keeps the state that it has, which lags from now on unless no version has come since;
    `state` is None then. Only for a document that is present, and has a row that holds a state.
    """

    document: Document
    state: bytes | None
    is_new: bool
    writes_state: bool = True
    cuts: list[Cut] = field(default_factory=list)
    journal: list[Entry] = field(default_factory=list)

    @property
    def is_present(self) -> bool:
        """Tell whether the document is there."""
        return self.state is not None or not self.writes_state


class Rejection(NamedTuple):
    """An event that the fold refused. `namespace` and `document` are empty where its names make no document.

    Only then `record` holds the event itself; a document's own events stand in its journal and pages.
    `about` is canonical JSON bytes of what its author said of it (`id`, `actor`, `type`): text that SQL's own
    text type could not hold (U+0000), hence bytes. `reason` and `detail` hold no U+0000.
    """

    namespace: str
    document: str
    partition: int
    sequence: int
    recorded_at: int
    reason: str
    detail: str
    about: bytes
    record: Record | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction: the shard moves on from `expected_sequence` (the `read_sequence` of its partitions so far)."""

    expected_sequence: int
    checkpoint: ShardCheckpoint
    documents: Sequence[Dirty]
    rejections: Sequence[Rejection]


class NamespaceCount(NamedTuple):
    """A namespace with its documents (absent ones left out) and events (of any outcome)."""

    namespace: str
    documents: int
    events: int


class Page(NamedTuple):
    """A bounded answer; `cursor` continues it, None at the end."""

    heads: list[Head]
    cursor: str | None


class Name(NamedTuple):
    """A document that has had a version, whether it is present now or not."""

    document: str
    version: int
    recorded_at: int
    is_present: bool


class Names(NamedTuple):
    """A bounded answer; `cursor` continues it, None at the end."""

    names: list[Name]
    cursor: str | None


class SnapshotStore(Protocol):
    """The projection of one log. Errors: `StoreUnavailable`, `StoreFull`, `StoreDiffers`, `FenceLost`.

    A row's state may lag behind its version (see `Dirty`). Whoever reads a state here gets the exact one all the same:
    the events since then are folded into it.
    """

    async def bind(self, log_id: str) -> list[Checkpoint]:
        """Return the checkpoints, by partition; makes them at the log's start, refuses another log's."""

    async def own(self) -> bool:
        """Try to own the shard; False while another does. From its owner it is a sign of life.

        An owner asks at least every `SHARD_SIGN_SECONDS`: one that has neither asked nor committed for
        `SHARD_LEASE_SECONDS` loses the shard to whoever asks next, and learns of it by an error or by False.
        """

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        """Load those documents that exist, with their id windows, in one round."""

    async def commit(self, commit: Commit) -> None:
        """Write all of it or nothing.

        Raises `FenceLost` where a checkpoint is not as expected or the shard is not owned, and
        `StoreUnavailable` with the fact `is_unknown=True` where only the checkpoints can tell what was written.
        """

    async def lagging(self, *, after: Key, limit: int) -> list[Key]:
        """Name documents whose row's state lags, in order, behind a name (at first that of two empty texts)."""

    async def settle(self, namespace: str, document: str) -> None:
        """Write a document's state as it is now into its row, where that lags; nothing else changes.

        Its own commit, beside those of the fold: what it writes is the same whoever writes it, and when.
        Raises `FenceLost` where the shard is not owned.
        """

    async def checkpoints(self) -> list[Checkpoint]:
        """Read the checkpoints as committed."""

    async def head(self, namespace: str, document: str) -> Head | None:
        """Read a document's row; None where it never had an event."""

    async def run_at(self, namespace: str, document: str, point: Point) -> Run | None:
        """Read the page that holds a point, or the journal's run; None where the document never had an event."""

    async def state_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        """Fold the run that holds a point up to it; None where the document never had an event."""

    def runs(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Run, None]:
        """Yield the runs of a document's history in the order asked, from the one that holds `after_version`."""

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        """Read one of a document's events with its outcome."""

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        """Find the first event that carried this id in the document's id window."""

    async def list_documents(
        self, namespace: str, *, prefix: str, where: str | None, limit: int, cursor: str | None
    ) -> Page:
        """List present documents by id, bounded by `limit` and `ANSWER_BYTES_MAX` (at least one is answered).

        Raises `Refused` (`bad_where`, `bad_cursor`), and `TimedOut` where the search by `where` takes too long.
        """

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        """List every document that ever had a version, by id, absent ones too. Raises `Refused` (`bad_cursor`)."""

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        """List what was present at a point (by sequence, recorded or occurred time), absent now or not.

        Bounded as `list_documents` is. A head is the document as it was, its `last_sequence` the version's own.
        An answer may be short, or empty, with a cursor all the same: that much was looked through in vain.
        Raises `Refused` (`bad_cursor`).
        """

    async def rejections(
        self, namespace: str, document: str, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        """Read what the fold refused of a document, newest first; with empty names, what made no document."""

    async def namespaces(self) -> list[NamespaceCount]:
        """Count documents and events by namespace."""

    def moment(self) -> AbstractAsyncContextManager[Moment]:
        """Hold one moment of the whole projection, to be read row by row while others go on writing."""

    async def ping(self) -> None:
        """Raise where the store cannot be reached."""

    async def close(self) -> None:
        """Let go of connections and of the shard."""


__all__ = [
    "Checkpoint",
    "Commit",
    "Counts",
    "Cut",
    "Dirty",
    "Entry",
    "Head",
    "Key",
    "Name",
    "Names",
    "NamespaceCount",
    "Page",
    "Point",
    "Record",
    "Rejection",
    "Run",
    "Snapshot",
    "SnapshotStore",
]
