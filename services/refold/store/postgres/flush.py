"""Large states, written less often than their documents change: rewriting a TOASTed value dominates a commit.

A row whose `state_version` is set has the state of that older version; reads fold the changes since. The projector asks
`StateFlusher` which states a commit carries, and calls `flush` for those that no commit has written in time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from refold.core.document import ABSENT, Document
from refold.store import STATE_LAG_BYTES, STATE_LAG_SECONDS, Key
from refold.store.postgres.lease import ShardLease
from refold.store.postgres.load import read_exact
from refold.store.postgres.pool import SQL, Pool, translated

_COMMITTED_AFTER: Final = 0.75
_FLUSHED_AFTER: Final = 0.875
"""Shares of the allowed time: a document that goes on changing is written by its commits before the flush."""

_FLUSHES: Final = 8
"""Flushes within the allowed time: what the last one finds is still written in time."""

_KEYS_MAX: Final = 1_000
"""Documents named by one statement."""

_BEFORE_ALL: Final = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLag:
    """A state of more than `bytes_min` may be older than its row by so many `seconds`; none may where they are 0."""

    bytes_min: int = STATE_LAG_BYTES
    seconds: float = STATE_LAG_SECONDS


class StateFlusher:
    """Decide when a row's state is written, by when each was written last."""

    def __init__(self, pool: Pool, lease: ShardLease, bounds: StateLag, timer: Callable[[], float]) -> None:
        """Begin without times: then every state is written."""
        self._pool = pool
        self._lease = lease
        self._bounds = bounds
        self._timer = timer
        self._written_at: dict[Key, float] = {}

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

    async def flush(self, *, is_final: bool = False) -> None:
        """Write the states that are due; all, if this is the last call. Raises `FenceLost` without the lease."""
        after = _BEFORE_ALL
        while keys := await self.outdated(after=after, limit=_KEYS_MAX):
            for key in keys:
                if is_final or self._is_older(key, _FLUSHED_AFTER):
                    await self.write(*key)
                    # A commit may have deleted the document meanwhile: only a row with a state is remembered.
                    if key in self._written_at:
                        self._remember(key)
            after = keys[-1]

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
            head = (await read_exact(connection, [(namespace, document)])).get((namespace, document))
        async with self._lease.connection() as connection:
            if head is None:
                return
            with translated():
                await connection.execute(
                    SQL["flush_state"], namespace, document, head.snapshot.state, head.snapshot.version
                )

    def _remember(self, key: Key) -> None:
        now = self._timer()
        self._written_at.pop(key, None)
        self._written_at[key] = now
        while now - self._written_at[oldest := next(iter(self._written_at))] > self._bounds.seconds:
            del self._written_at[oldest]

    def _is_older(self, key: Key, share: float) -> bool:
        written_at = self._written_at.get(key)
        return written_at is None or self._timer() - written_at >= share * self._bounds.seconds
