"""A Reader that keeps states in memory by document and version: a version never changes, so no entry can be outdated.

Gateways read through it. Decoded pages are not kept: a version in one would still have to be replayed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from refold.core.history import Clock, Point, Snapshot
from refold.store import OMITTED, Capabilities, Head, Key
from refold.store.ports import Reader

CACHE_STATES_BYTES: Final = 64 * 1024 * 1024

STATE_SHARE_MAX: Final = 8
"""A state that takes more than this part of the bound is not kept: it would displace too many others."""

EPOCH_SECONDS: Final = 1.0
"""How long the store's epoch counts as read: what a rebuild corrected is answered as it was for at most this long."""

ENTRY_BYTES: Final = 590
"""Memory of an entry beside its state and names, measured."""


class CacheCounts(NamedTuple):
    """What a cache's metrics say: reads that it answered, those that it did not, and its size."""

    hits: int
    misses: int
    bytes: int


class CachedReader:
    """A Reader whose `head` and `snapshot_at` take states from memory.

    A head is always read from the store, which leaves out a state that is known here. A version that is known here is
    answered without the store. A rebuild begins another epoch, and empties the cache.
    """

    def __init__(
        self,
        store: Reader,
        *,
        bytes_max: int = CACHE_STATES_BYTES,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep at most `bytes_max` bytes, those used last; with 0, nothing."""
        self._store = store
        self._states = StateCache(bytes_max)
        self._timer = timer
        self._epoch = ""
        self._epoch_at = float("-inf")
        self._hits = self._misses = 0
        self.checkpoints = store.checkpoints
        self.epoch = store.epoch
        self.other_versions = store.other_versions
        self.load = store.load
        self.list_documents = store.list_documents
        self.list_names = store.list_names
        self.namespaces = store.namespaces
        self.ping = store.ping
        self.segments = store.segments
        self.entry = store.entry
        self.entries_between = store.entries_between
        self.find_id = store.find_id
        self.rejections = store.rejections
        self.conflicts = store.conflicts
        self.open_conflicts = store.open_conflicts
        self.list_at = store.list_at

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    @property
    def counts(self) -> CacheCounts:
        """Return the counts since the start, and the size now."""
        return CacheCounts(self._hits, self._misses, self._states.bytes)

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        if known_version is not None:
            return await self._store.head(namespace, document, known_version=known_version)
        states = await self._current()
        known = states.newest((namespace, document))
        head = await self._store.head(namespace, document, known_version=known and known.version)
        if head is None or head.snapshot.state is None:
            return head
        if head.snapshot.state == OMITTED:
            assert known is not None
            self._hits += 1
            states.get((namespace, document), known.version)
            return head._replace(snapshot=known)
        self._misses += 1
        states.put((namespace, document), head.snapshot)
        return head

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        states = await self._current()
        if point.clock is Clock.version:
            known = states.get((namespace, document), point.value)
            if known is not None:
                self._hits += 1
                return known
            self._misses += 1
        found = await self._store.snapshot_at(namespace, document, point)
        if found is not None:
            states.put((namespace, document), found)
        return found

    async def _current(self) -> StateCache:
        """Return the cache of the store's epoch. A read that began before a rebuild puts into the former one."""
        now = self._timer()
        if now - self._epoch_at >= EPOCH_SECONDS:
            epoch = await self._store.epoch()
            if epoch != self._epoch:
                self._states = StateCache(self._states.bytes_max)
            self._epoch, self._epoch_at = epoch, now
        return self._states


class StateCache:
    """Snapshots by document and version, bounded in bytes; those used last are kept."""

    def __init__(self, bytes_max: int) -> None:
        """Begin empty."""
        self.bytes_max = bytes_max
        self.bytes = 0
        # In the order of use, and each document's newest version of those that are kept.
        self._snapshots: dict[tuple[Key, int], Snapshot] = {}
        self._newest: dict[Key, int] = {}

    def get(self, key: Key, version: int) -> Snapshot | None:
        """Return a document's snapshot at a version, which counts as its use."""
        found = self._snapshots.pop((key, version), None)
        if found is not None:
            self._snapshots[key, version] = found
        return found

    def newest(self, key: Key) -> Snapshot | None:
        """Return a document's newest snapshot of those that are kept."""
        version = self._newest.get(key)
        return None if version is None else self._snapshots[key, version]

    def put(self, key: Key, snapshot: Snapshot) -> None:
        """Keep a snapshot of a present document, unless it is too large; drop what was used least lately."""
        size, place = _size(key, snapshot), (key, snapshot.version)
        if snapshot.state is None or size * STATE_SHARE_MAX > self.bytes_max or place in self._snapshots:
            return
        self._snapshots[place] = snapshot
        self._newest[key] = max(snapshot.version, self._newest.get(key, 0))
        self.bytes += size
        while self.bytes > self.bytes_max:
            self._drop(next(iter(self._snapshots)))

    def _drop(self, place: tuple[Key, int]) -> None:
        key, version = place
        self.bytes -= _size(key, self._snapshots.pop(place))
        if self._newest.get(key) == version:
            # Older versions may still be kept: they are found by number alone.
            del self._newest[key]


def _size(key: Key, snapshot: Snapshot) -> int:
    return ENTRY_BYTES + len(snapshot.state or b"") + len(key[0]) + len(key[1])
