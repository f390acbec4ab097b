"""Read a document's head, its states and its changes, once what was announced of it is committed.

Used by the feed for gaps, and by streams for clients that return.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from refold.core import json_text
from refold.core.errors import TimedOut
from refold.core.history import NEVER, Point, Snapshot
from refold.history import History
from refold.live.watched import Change
from refold.store import ANY_VERSION, Key
from refold.store.ports import LatestReader

PAST_READS_MAX: Final = 8
"""Reads of history at a time, of all that live streams need."""

COMMIT_SECONDS: Final = 10.0
"""How long a read waits for the commit of what was announced."""


class Projection(Protocol):
    """What a gateway knows of the projection (`refold.gateway.consistency.Consistency`)."""

    sequences: list[int]
    """Up to which sequence each partition is committed."""

    def note_announced(self, key: Key, sequence: int) -> None:
        """Make reads of a document wait for what subscribers may have been sent."""

    async def catch_up(self, deadline: float, key: Key | None = None) -> bool:
        """Wait until all that the log has now is committed; False if the deadline passes first."""

    async def wait_for_announced(
        self, deadline: float, namespace: str | None = None, document: str | None = None
    ) -> None:
        """Wait until what was noted about a document is committed. Raises `TimedOut`."""


class ConsistentReader:
    """Read heads and history once all that was announced of a document is committed, a bounded number at a time.

    Every method may raise `TimedOut`, and what the store raises.
    """

    def __init__(self, store: LatestReader, history: History, projection: Projection) -> None:
        self._store = store
        self._history = history
        self._projection = projection
        self._reads = asyncio.Semaphore(PAST_READS_MAX)

    async def head(self, key: Key) -> Snapshot:
        """Read a document's head; version 0 where it has none."""
        await self._committed(key)
        head = await self._store.head(*key)
        return NEVER if head is None else head.snapshot

    async def snapshot(self, key: Key, point: Point) -> Snapshot:
        """Read a document at a point. Raises `VersionUnknown`."""
        await self._committed(key)
        async with self._reads:
            return await self._history.snapshot(*key, point)

    async def changes(self, key: Key, after: int, limit: int) -> list[Change]:
        """Read a document's changes after a version: at most so many, fewer where they are large."""
        await self._committed(key)
        async with self._reads:
            found = await self._history.notices(*key, after=after, limit=limit)
        return [Change(version, sequence, json_text.trimmed(body)) for version, sequence, body in found]

    async def newest(self, key: Key) -> int:
        """Return a document's version once all that the log has is committed. Raises `TimedOut`."""
        await self.catch_up(key)
        await self._committed(key)
        head = await self._store.head(*key, known_version=ANY_VERSION)
        return 0 if head is None else head.snapshot.version

    async def reaches(self, sequence: int) -> bool:
        """Tell whether the log has a sequence, and wait until it is committed. Raises `TimedOut`."""
        if min(self._projection.sequences) < sequence:
            await self.catch_up()
        return min(self._projection.sequences) >= sequence

    async def catch_up(self, key: Key | None = None) -> None:
        """Wait until all that the log has of a document, or of all, is committed. Raises `TimedOut`."""
        if not await self._projection.catch_up(asyncio.get_running_loop().time() + COMMIT_SECONDS, key):
            raise TimedOut("the projection has not caught up with the log")

    async def _committed(self, key: Key) -> None:
        deadline = asyncio.get_running_loop().time() + COMMIT_SECONDS
        await self._projection.wait_for_announced(deadline, *key)
