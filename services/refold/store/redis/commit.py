"""Write one commit as one transaction: the fence, documents, segments, dedup windows, rejections and counts.

Part of the Redis adapter. The fence is a comparison under WATCH: what changes meanwhile makes EXEC do nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from refold.core.errors import FenceLost, StoreDamaged, StoreUnavailable
from refold.core.fold import ID_WINDOW_IDS
from refold.core.history import NEVER, Entry, Snapshot
from refold.core.stream import PARTITIONS
from refold.store import (
    PAGES_KEPT,
    ClosedPage,
    Commit,
    DocumentWrite,
    Key,
    Rejection,
    Resolution,
    reading_stored,
)
from refold.store.recent import rejections_kept_max
from refold.store.redis.keys import Keys
from refold.store.redis.pool import EMPTIED, Command, Connection
from refold.store.redis.rows import Position, Rows, pack_checkpoint

FENCE_ATTEMPTS_MAX: Final = 20
"""Comparisons of one commit: other shards may divide or unite their groups meanwhile."""


class Commits:
    """Write the commits of one shard."""

    def __init__(self, keys: Keys, rows: Rows, owner: bytes) -> None:
        self._keys = keys
        self._rows = rows
        self._owner = owner
        self._dictionaries = self._learned = 0

    def forget_dictionaries(self) -> None:
        """Read all of them again before the next commit: the server may have been emptied."""
        self._rows.forget()
        self._learned = 0

    async def write(
        self, connection: Connection, commit: Commit, key: int | None, token: bytes, renewal: Command
    ) -> None:
        """Write all of it or nothing, encrypted with that key; `renewal` renews the lease with it.

        Raises `FenceLost`, and what `Connection.execute` raises.
        """
        content = [*self._content(commit), renewal]
        for _ in range(FENCE_ATTEMPTS_MAX):
            moves = await self._pass_fence(connection, commit, key, token)
            if self._learned != self._dictionaries:
                await self._learn_dictionaries(connection)
                content = [*self._content(commit), renewal]
            resolved = await self._resolve(connection, commit)
            if await connection.execute([*moves, *content, *resolved]):
                return
        raise StoreUnavailable("other shards changed their groups of partitions all the time")

    async def _learn_dictionaries(self, connection: Connection) -> None:
        """Make all of them known to the codec, which encodes by the newest of each namespace. Raises `StoreDamaged`."""
        (found,) = await connection.run([("HGETALL", self._keys.dictionaries)])
        with reading_stored("", "dictionaries"):
            for number, stored in zip(found[::2], found[1::2], strict=True):
                self._rows.learn(int(number), stored)
        self._learned = len(found) // 2

    async def _pass_fence(
        self, connection: Connection, commit: Commit, key: int | None, token: bytes
    ) -> list[Command]:
        """Compare the lease, the key and the positions; return the commands that move these on. Raises `FenceLost`."""
        keys, now = self._keys, commit.checkpoint
        group = now.partitions[0]
        read = (self._owner, keys.groups, keys.shard(group))
        commands: list[Command] = [("GET", name) for name in read]
        commands += [("HEXISTS", keys.checks, key or 0), ("HLEN", keys.dictionaries)]
        watched = await connection.watch([*read, keys.checks], commands)
        held, groups, position, has_key, self._dictionaries = watched
        if held not in {None, token}:
            raise FenceLost("another holds the shard's lease")
        if groups is None:
            raise StoreUnavailable(EMPTIED)
        if key is not None and not has_key:
            raise FenceLost("the key of a commit is being retired", key=key)
        if len(groups) != PARTITIONS:
            raise StoreDamaged("the projection's groups of partitions are damaged")
        moved = Position((now.read_sequence, now.recorded_at, now.fold)).pack()
        if [partition for partition in range(PARTITIONS) if groups[partition] == group] == [*now.partitions]:
            _compare(commit, [position])
            return [("SET", keys.shard(group), moved)]
        return await self._regroup(connection, commit, groups, moved)

    async def _regroup(
        self, connection: Connection, commit: Commit, groups: bytes, moved: bytes
    ) -> list[Command]:
        """Make a group of partitions of other groups, each of which is named by its first partition."""
        keys, own = self._keys, commit.checkpoint.partitions
        former = sorted({groups[partition] for partition in own})
        shards = [keys.shard(group) for group in former]
        (positions,) = await connection.watch(shards, [("MGET", *shards)])
        _compare(commit, positions)
        made, moves = bytearray(groups), list[Command]()
        for group, position in zip(former, positions, strict=True):
            rest = [at for at in range(PARTITIONS) if groups[at] == group and at not in own]
            for partition in rest:
                made[partition] = rest[0]
            if rest:
                moves.append(("SET", keys.shard(rest[0]), position))
        for partition in own:
            made[partition] = own[0]
        return [*moves, ("SET", keys.groups, bytes(made)), ("SET", keys.shard(own[0]), moved)]

    async def _resolve(self, connection: Connection, commit: Commit) -> list[Command]:
        """Close open rejections of earlier commits, of which only this shard writes those of its documents."""
        if not commit.resolutions:
            return []
        keys, by_namespace = self._keys, defaultdict[str, list[Resolution]](list)
        for resolution in commit.resolutions:
            by_namespace[resolution.namespace].append(resolution)
        commands: list[Command] = []
        for namespace, resolutions in by_namespace.items():
            fields = [_field(it.document, it.sequence) for it in resolutions]
            (found,) = await connection.run([("HMGET", keys.unresolved(namespace), *fields)])
            for resolution, field, stored in zip(resolutions, fields, found, strict=True):
                if stored is not None:
                    with reading_stored(namespace, resolution.document):
                        rejection = self._rows.to_rejection(namespace, stored)
                    closed = rejection._replace(resolved_by=resolution.resolved_by)
                    commands += [
                        ("HDEL", keys.unresolved(namespace), field),
                        ("ZREMRANGEBYSCORE", keys.rejections(namespace), closed.sequence, closed.sequence),
                        ("ZADD", keys.rejections(namespace), closed.sequence, self._rows.rejection(closed)),
                        self._trim(namespace),
                    ]
        return commands

    def _content(self, commit: Commit) -> Iterator[Command]:
        keys = self._keys
        links: list[bytes | int] = []
        for checkpoint in commit.checkpoint.touched:
            links += [checkpoint.partition, pack_checkpoint(checkpoint)]
        if links:
            yield ("HSET", keys.checkpoints, *links)
        for each in commit.checkpoint.clock:
            field = b"%d:%d" % (each.first_sequence, each.recorded_at)
            yield ("HSET", keys.clock, field, each.last_sequence)
        pages = defaultdict[Key, list[ClosedPage]](list)
        for page in commit.pages:
            pages[page.namespace, page.document].append(page)
        heads: list[bytes] = []
        for write in commit.documents:
            key = (write.document.namespace, write.document.document)
            heads += [keys.head(key), self._rows.head(write)]
            yield from self._write_segments(key, write, pages[key])
            yield from self._write_identities(key, write, pages[key])
            yield from self._write_names(key, write)
        if heads:
            yield ("MSET", *heads)
        yield from self._write_rejections(commit)
        for field, added in _counts(commit).items():
            yield ("HINCRBY", keys.counts, field, added)

    def _write_segments(
        self, key: Key, write: DocumentWrite, pages: Sequence[ClosedPage]
    ) -> Iterator[Command]:
        """Add entries to the open segment; a page that closes it makes it the last one."""
        keys = self._keys
        has_last = _has_page_before(pages)
        added: list[bytes] = [self._base(key, NEVER, 0)] if write.is_new else []
        if len(pages) > PAGES_KEPT:
            before, pages = pages[-PAGES_KEPT - 1], pages[-PAGES_KEPT:]
            yield ("DEL", keys.open(key), keys.last(key), keys.before(key))
            added = [self._base(key, before.closing, before.entries[-1].sequence)]
            has_last = False
        for page in pages:
            entries = page.new_entries
            yield ("RPUSH", keys.open(key), *added, self._rows.run(key, entries))
            if has_last:
                yield ("RENAME", keys.last(key), keys.before(key))
            yield ("RENAME", keys.open(key), keys.last(key))
            added, has_last = [self._base(key, page.closing, entries[-1].sequence)], True
        if write.journal:
            added.append(self._rows.run(key, write.journal))
        if added:
            yield ("RPUSH", keys.open(key), *added)

    def _base(self, key: Key, base: Snapshot, base_sequence: int) -> bytes:
        return self._rows.base(key, base, base_sequence)

    def _write_identities(
        self, key: Key, write: DocumentWrite, pages: Sequence[ClosedPage]
    ) -> Iterator[Command]:
        runs: list[Sequence[Entry]] = [*(page.new_entries for page in pages), write.journal]
        ids = [entry.identity for run in runs for entry in run if entry.identity is not None]
        if ids:
            yield ("RPUSH", self._keys.ids(key), *ids[-ID_WINDOW_IDS:])
            if write.document.events > ID_WINDOW_IDS:
                yield ("LTRIM", self._keys.ids(key), -ID_WINDOW_IDS, -1)

    def _write_names(self, key: Key, write: DocumentWrite) -> Iterator[Command]:
        """Add a document to the lists when it becomes present, or has its first version and is absent again."""
        namespace, name = key[0], key[1].encode()
        if write.state is None and write.was_present:
            yield ("ZREM", self._keys.present(namespace), name)
        elif not write.was_present and write.document.version:
            yield ("ZADD", self._keys.names(namespace), 0, name)
            if write.state is not None:
                yield ("ZADD", self._keys.present(namespace), 0, name)

    def _write_rejections(self, commit: Commit) -> Iterator[Command]:
        by_namespace = defaultdict[str, list[Rejection]](list)
        resolved = {(*it[:2], it.sequence): it.resolved_by for it in commit.resolutions}
        for rejection in commit.rejections:
            at = (*rejection[:2], rejection.sequence)
            it = rejection._replace(resolved_by=resolved.get(at)) if rejection.is_open else rejection
            by_namespace[rejection.namespace].append(it)
        for namespace, rejections in by_namespace.items():
            rows = [(it.sequence, self._rows.rejection(it)) for it in rejections]
            yield ("ZADD", self._keys.rejections(namespace), *(part for row in rows for part in row))
            yield self._trim(namespace)
            pairs = zip(rejections, rows, strict=True)
            unresolved = [(_field(it.document, it.sequence), row) for it, (_, row) in pairs if it.is_open]
            if unresolved:
                yield (
                    "HSET",
                    self._keys.unresolved(namespace),
                    *(part for row in unresolved for part in row),
                )

    def _trim(self, namespace: str) -> Command:
        return ("ZREMRANGEBYRANK", self._keys.rejections(namespace), 0, -rejections_kept_max(namespace) - 1)


def _compare(commit: Commit, positions: Iterable[Any]) -> None:
    """Raise `FenceLost` where a position is not the one that the commit continues."""
    for stored in positions:
        with reading_stored("", "positions"):
            found = Position.unpack(stored)
        if found[0] != commit.expected_sequence:
            raise FenceLost(expected_sequence=commit.expected_sequence, found_sequence=found[0])


def _has_page_before(pages: Sequence[ClosedPage]) -> bool:
    """Tell whether the document had a closed page before the first of these."""
    return bool(pages) and pages[0].events > pages[0].journal_events + len(pages[0].new_entries)


def _field(document: str, sequence: int) -> bytes:
    return b"%d:%b" % (sequence, document.encode())


def _counts(commit: Commit) -> Counter[bytes]:
    """Return what a commit adds to the counts of documents, events and rejections by namespace."""
    counts: Counter[bytes] = Counter()
    for write in commit.documents:
        namespace = write.document.namespace.encode()
        counts[b"d:" + namespace] += write.added_documents
        counts[b"e:" + namespace] += write.added_events
    for rejection in commit.rejections:
        counts[b"x:" + rejection.namespace.encode()] += 1
    return counts
