"""The HistoryReader of Redis: a document's last segments, and the last rejections of a namespace.

Part of the Redis adapter. What is older raises `HistoryElsewhere`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final

from refold.core.dedup import id_digest, recall
from refold.core.errors import HistoryElsewhere
from refold.core.fold import ID_WINDOW_EVENTS
from refold.core.history import Entry, Point, Segment, Snapshot
from refold.store import Key, Page, Rejection, read_cursor, reading_stored
from refold.store.recent import RecentHistory, RecentRejections, is_beyond, newest_rejections
from refold.store.redis.latest import RedisLatest
from refold.store.redis.pool import Command

BETWEEN_DOCUMENTS_MAX: Final = 64
"""Documents whose last segments one transaction reads in search of their events."""


class RedisHistory(RedisLatest):
    """Part of `RedisStore`."""

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        kept = await self._kept((namespace, document))
        return None if kept is None else kept.snapshot_at(point)

    async def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        kept = await self._kept((namespace, document))
        if kept is not None:
            for segment in kept.read(after_version, is_descending=is_descending):
                yield segment

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        kept = await self._kept((namespace, document))
        return None if kept is None else kept.entry(sequence)

    async def entries_between(
        self, namespace: str, documents: Sequence[str], *, after_sequence: int, until_sequence: int
    ) -> list[tuple[str, Entry]]:
        found: list[tuple[str, Entry]] = []
        for at in range(0, len(documents), BETWEEN_DOCUMENTS_MAX):
            keys = [(namespace, document) for document in documents[at : at + BETWEEN_DOCUMENTS_MAX]]
            for kept in await self._all_kept(keys):
                if kept is not None:
                    entries = kept.between(after_sequence, until_sequence)
                    found += [(kept.key[1], entry) for entry in entries]
        found.sort(key=lambda it: it[1].sequence)
        return found

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        key = (namespace, document)
        ids = ("LRANGE", self._keys.ids(key), 0, -1)
        row, identities, *segments = await self._pool.read_at_once(
            ("GET", self._keys.head(key)), ids, *self._segments_of(key)
        )
        if row is None:
            await self._check_never(key)
            return None
        found = await self._decoded(key, partial(self._rows.to_document, key, row, identities))
        with reading_stored(*key):
            known = recall(found.identities, id_digest(event_id), found.events + 1 - ID_WINDOW_EVENTS)
        if known is None:
            return None
        kept = await self._to_kept(key, segments)
        return None if kept is None else kept.entry(known[1].sequence)

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        counts = await self._counts()
        namespaces = [namespace] if namespace is not None else _names(counts, "x:")
        # Without a document, no more than what is asked for can be in the answer.
        last = limit if document is None else -1
        before = "+inf" if before_sequence is None else f"({before_sequence}"
        found: list[RecentRejections] = []
        for name in namespaces:
            key = self._keys.rejections(name)
            (rows, size) = await self._pool.read_at_once(
                ("ZREVRANGEBYSCORE", key, before, "-inf", "LIMIT", 0, last), ("ZCARD", key)
            )
            read = await self._to_rejections(name, rows)
            is_all = counts.get(f"x:{name}", 0) <= size
            found.append(RecentRejections(found=read, is_all=is_all))
        return newest_rejections(found, document, limit=limit, before_sequence=before_sequence)

    async def conflicts(
        self, namespace: str, document: str, *, after_sequence: int | None, is_descending: bool
    ) -> AsyncGenerator[list[Entry]]:
        kept = await self._kept((namespace, document))
        if kept is not None:
            for found in kept.conflicts(after_sequence, is_descending=is_descending):
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
        namespaces = [namespace] if namespace is not None else _names(await self._counts(), "x:")
        found: list[Rejection] = []
        for name in namespaces:
            (rows,) = await self._pool.run(("HVALS", self._keys.unresolved(name)))
            found += await self._to_rejections(name, rows)
        found = [
            it
            for it in found
            if document in {None, it.document}
            and is_beyond(it.sequence, after_sequence, is_descending=is_descending)
        ]
        return sorted(found, key=attrgetter("sequence"), reverse=is_descending)[:limit]

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        """Raise `HistoryElsewhere`: documents that were present then may have no segment of that time."""
        read_cursor(cursor)
        facts = {"clock": point.clock.value, "prefix": prefix, "limit": limit}
        raise HistoryElsewhere("lists as of a point are not kept", namespace=namespace, **facts)

    async def _kept(self, key: Key) -> RecentHistory | None:
        return (await self._all_kept([key]))[0]

    async def _all_kept(self, keys: Sequence[Key]) -> list[RecentHistory | None]:
        """Read the last segments of documents, from one moment; None for one that never had an event."""
        if not keys:
            return []
        asked = [command for key in keys for command in self._segments_of(key)]
        read = await self._pool.read_at_once(*asked)
        parts = [read[at : at + 3] for at in range(0, len(read), 3)]
        return [await self._to_kept(key, part) for key, part in zip(keys, parts, strict=True)]

    def _segments_of(self, key: Key) -> list[Command]:
        names = (self._keys.before(key), self._keys.last(key), self._keys.open(key))
        return [("LRANGE", name, 0, -1) for name in names]

    async def _to_rejections(self, namespace: str, rows: list[bytes]) -> list[Rejection]:
        key = (namespace, "")
        return [await self._decoded(key, partial(self._rows.to_rejection, namespace, row)) for row in rows]

    async def _to_kept(self, key: Key, segments: list[Any]) -> RecentHistory | None:
        if not any(segments):
            return None
        found = [
            await self._decoded(key, partial(self._rows.to_segment, key, elements))
            for elements in segments
            if elements
        ]
        kept = RecentHistory(key=key, segments=found)
        kept.check()
        return kept


def _names(counts: dict[str, int], kind: str) -> list[str]:
    return [field[len(kind) :] for field in counts if field.startswith(kind)]
