"""Whole documents and exact states: large states are written less often than their documents change.

Part of the PostgreSQL adapter. Rewriting a TOASTed value dominates a commit: a row whose `state_version` is set has the
state of that older version, and reads fold the changes since. The projector asks `StateFlusher` which states a commit
carries, and calls `flush` for those that no commit has written in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from refold.core.dedup import admit, id_digest, recall, unpack_identities
from refold.core.document import ABSENT, Document, from_canonical
from refold.core.errors import FenceLost
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.core.history import NEVER, Clock, Point
from refold.core.replay import state_at
from refold.store import STATE_LAG_BYTES, STATE_LAG_SECONDS, Head, Key, damaged, reading_stored
from refold.store.postgres.lease import ShardLease
from refold.store.postgres.pool import SQL, Connection, Pool, Row, translated
from refold.store.postgres.rows import Rows, key_of

_COMMITTED_AFTER: Final = 0.75
_FLUSHED_AFTER: Final = 0.875
"""Shares of the allowed time: a document that goes on changing is written by its commits before the flush."""

_FLUSHES: Final = 8
"""Flushes within the allowed time: what the last one finds is still written in time."""

_KEYS_MAX: Final = 1_000
"""Documents named by one statement."""

_BEFORE_ALL: Final = ("", "")


async def read_exact(connection: Connection, keys: Sequence[Key], rows: Rows) -> dict[Key, Head]:
    """Read the documents that exist with their exact states, in one consistent view."""
    if not keys:
        return {}
    found = await connection.fetch(SQL["exact_documents"], *map(list, zip(*keys, strict=True)))
    heads = {}
    for row in found:
        heads[key_of(row)] = _exact_head(row, rows)
        # Folding large documents takes time: other tasks run between two.
        await asyncio.sleep(0)
    return heads


def _exact_head(row: Row, rows: Rows) -> Head:
    """Fold the journal after the row's own state, or after the last page's snapshot where that is newer."""
    head = rows.to_head(row)
    if row["state_version"] is None:
        return head
    with reading_stored(head.namespace, head.document):
        base = head.snapshot.state
        if row["snapshot"] is not None:
            base = rows.to_closing_state(key_of(row), row["base_sequence"], row["snapshot"])
        entries = [rows.to_entry(entry) for entry in row["journal"]]
        snapshot = NEVER._replace(state=base, version=row["base_version"])
        exact = state_at(snapshot, entries, Point(Clock.version, head.snapshot.version))
    versions = [entry.version for entry in entries if entry.status.is_effective]
    if versions != list(range(row["base_version"] + 1, head.snapshot.version + 1)):
        raise damaged(head.namespace, head.document, "the journal lacks events of it")
    return head._replace(snapshot=head.snapshot._replace(state=exact.state))


async def load_documents(connection: Connection, keys: Sequence[Key], rows: Rows) -> list[Document]:
    """Load those documents that exist."""
    if not keys:
        return []
    found = await _load(connection, keys, has_states=True)
    documents = {key_of(row): _with_window(row, rows) for row in found}
    outdated = [key_of(row) for row in found if row["state_version"] is not None]
    await _load_outdated(connection, documents, outdated, rows)
    return list(documents.values())


async def find_first(connection: Connection, key: Key, event_id: str, rows: Rows) -> int:
    """Return the sequence of the first event that carried an id in a document's dedup window; 0 where none did."""
    for row in await _load(connection, [key], has_states=False):
        found = _with_window(row, rows)
        oldest = found.events + 1 - ID_WINDOW_EVENTS
        known = recall(found.identities, id_digest(event_id), oldest)
        return known[1].sequence if known else 0
    return 0


async def _load(connection: Connection, keys: Sequence[Key], *, has_states: bool) -> list[Row]:
    names = map(list, zip(*set(keys), strict=True))
    return await connection.fetch(SQL["load_documents"], *names, ID_WINDOW_IDS, ID_WINDOW_EVENTS, has_states)


async def _load_outdated(
    connection: Connection, documents: dict[Key, Document], keys: list[Key], rows: Rows
) -> None:
    """Add the states that rows lack. Only the lease's holder writes them, so a newer row means a lost lease."""
    for key, head in (await read_exact(connection, keys, rows)).items():
        document, state = documents[key], head.snapshot.state
        if head.last_sequence != document.last_sequence:
            raise FenceLost("a document was written by another while it was loaded", document="/".join(key))
        with reading_stored(*key):
            document.state = from_canonical(state)


def _with_window(row: Row, rows: Rows) -> Document:
    document = rows.to_document(row)
    with reading_stored(document.namespace, document.document):
        paged = unpack_identities(row["paged_identities"] or b"")
        for identity in chain(paged, row["journal_identities"]):
            admit(document.identities, identity, ID_WINDOW_IDS)
    return document


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLag:
    """A state of more than `bytes_min` may be older than its row by so many `seconds`; none may where they are 0."""

    bytes_min: int = STATE_LAG_BYTES
    seconds: float = STATE_LAG_SECONDS


async def _no_key() -> None:
    return None


class StateFlusher:
    """Decide when a row's state is written, by when each was written last."""

    def __init__(
        self, pool: Pool, lease: ShardLease, rows: Rows, bounds: StateLag, timer: Callable[[], float]
    ) -> None:
        """Begin without times: then every state is written."""
        self._pool = pool
        self._lease = lease
        self._rows = rows
        self._bounds = bounds
        self._timer = timer
        self._written_at: dict[Key, float] = {}
        self.prepare_key: Callable[[], Awaitable[int | None]] = _no_key
        """Prepares the key that states are encrypted with, and returns its number."""

    @property
    def seconds(self) -> float:
        """How often `flush` is due."""
        return self._bounds.seconds / _FLUSHES

    def wants(self, document: Document, *, is_changed: bool) -> bool:
        """Tell whether a commit should carry a document's state. `is_changed`: it has effective events there."""
        key = (document.namespace, document.document)
        if document.state is ABSENT or document.size <= self._bounds.bytes_min or not self._bounds.seconds:
            self._written_at.pop(key, None)
            return True
        if not is_changed or not self._is_older(key, _COMMITTED_AFTER):
            return False
        self._remember(key)
        return True

    def forget(self) -> None:
        """Forget all that was written: a commit failed, so the rows may not hold it."""
        self._written_at.clear()

    async def flush(self, *, is_final: bool = False) -> int:
        """Write the states that are due; all, if this is the last call; return how many are left out still.

        Raises `FenceLost` without the lease.
        """
        after, left = _BEFORE_ALL, 0
        while keys := await self.outdated(after=after, limit=_KEYS_MAX):
            for key in keys:
                if is_final or self._is_older(key, _FLUSHED_AFTER):
                    await self.write(*key)
                    # A commit may have deleted the document meanwhile: only a row with a state is remembered.
                    if key in self._written_at:
                        self._remember(key)
                else:
                    left += 1
            after = keys[-1]
        return left

    async def outdated(self, *, after: Key = _BEFORE_ALL, limit: int = _KEYS_MAX) -> list[Key]:
        """List documents whose row's state is older than the row, in order, after a name."""
        async with self._pool.lend() as connection:
            return [
                (row[0], row[1]) for row in await connection.fetch(SQL["outdated_documents"], *after, limit)
            ]

    async def write(self, namespace: str, document: str) -> None:
        """Write a document's exact state into its row, unless the row has caught up.

        The state is folded before the lease is used, because commits wait meanwhile; versions may come in between.
        """
        async with self._pool.lend() as connection:
            key = (namespace, document)
            head = (await read_exact(connection, [key], self._rows)).get(key)
        async with self._lease.connection() as connection:
            if head is None:
                return
            number = await self.prepare_key() if self._rows.has_encoded_states else None
            state = self._rows.of_state(key, head.snapshot.state)
            with translated():
                given = (namespace, document, state, head.snapshot.version, number)
                if not await connection.fetchval(SQL["flush_state"], *given):
                    raise FenceLost("the key of a state is being retired", key=number)

    def _remember(self, key: Key) -> None:
        now = self._timer()
        self._written_at.pop(key, None)
        self._written_at[key] = now
        while now - self._written_at[oldest := next(iter(self._written_at))] > self._bounds.seconds:
            del self._written_at[oldest]

    def _is_older(self, key: Key, share: float) -> bool:
        written_at = self._written_at.get(key)
        return written_at is None or self._timer() - written_at >= share * self._bounds.seconds
