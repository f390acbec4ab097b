"""The keys of the values: the `KeyedStore` of Redis.

Part of the Redis adapter. Values are replaced under WATCH: what changes meanwhile makes EXEC do nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from refold.core.errors import FenceLost
from refold.store import Key, reading_stored
from refold.store.keyed import CommitKey, KeyCount, Rewritten, encryption_of
from refold.store.layers.encryption import key_number
from refold.store.redis.keys import Keys
from refold.store.redis.lease import ShardLease
from refold.store.redis.pool import Command, Pool
from refold.store.redis.rows import (
    Encoded,
    Rows,
    encoded_in_dictionary,
    encoded_in_element,
    encoded_in_head,
    encoded_in_rejection,
)
from refold.store.redis.schema import SCANNED_KEYS, is_bound_to, rewrite_file

REENCRYPT_ATTEMPTS_MAX: Final = 10
"""How often values are read again that have changed before they were replaced; later passes find the rest."""

PARTS_MAX: Final = 16
"""Documents, or groups of rejections or dictionaries, that are read at once."""

FIELDS_MAX: Final = 100
"""Rejections or dictionaries that one transaction replaces."""

UNRESOLVED: Final = "rejections.unresolved"
"""The part of the rejections that are kept apart while they are open."""

Change = tuple[Encoded, Callable[[bytes], list[Command]]]
"""A value, and the commands that put other bytes in its place."""


class _Part(Protocol):
    """Values that are read and replaced together."""

    @property
    def name(self) -> str:
        """The part that they are counted as; empty: that of each value's place."""

    @property
    def watched(self) -> Sequence[bytes]:
        """The keys that they are in."""

    @property
    def read(self) -> Sequence[Command]:
        """The commands that read them."""

    def values(self, answers: Sequence[Any]) -> list[Change]:
        """Return the values in what was read."""


class _Document:
    """A document's row and segments."""

    name = ""

    def __init__(self, keys: Keys, key: Key) -> None:
        self._key = key
        self._head = keys.head(key)
        self._segments = (keys.open(key), keys.last(key), keys.before(key))
        self.watched = (self._head, *self._segments)
        self.read: list[Command] = [("GET", self._head), *(("LRANGE", it, 0, -1) for it in self._segments)]

    def values(self, answers: Sequence[Any]) -> list[Change]:
        head, *segments = answers
        with reading_stored(*self._key):
            state = None if head is None else encoded_in_head(self._key, head)
            changes: list[Change] = [] if state is None else [(state, lambda new: [("SET", self._head, new)])]
            for name, elements in zip(self._segments, segments, strict=True):
                for index, element in enumerate(elements):
                    it = encoded_in_element(self._key, element)
                    if it is not None:
                        changes.append((it, partial(_set_element, name, index)))
        return changes


class _Rejections:
    """Some rejections of a namespace, by their sequences."""

    name = ""

    def __init__(self, name: bytes, namespace: str, read: Command) -> None:
        self._namespace = namespace
        self.watched = (name,)
        self.read = [read]

    def values(self, answers: Sequence[Any]) -> list[Change]:
        (found,) = answers
        with reading_stored(self._namespace, "rejections"):
            return [
                (encoded_in_rejection(self._namespace, stored), partial(_set_scored, *self.watched, score))
                for stored, score in zip(found[::2], found[1::2], strict=True)
            ]


class _Fields:
    """Some fields of a hash; `encoded_in` finds the value in a field."""

    def __init__(
        self, name: str, key: bytes, fields: Sequence[bytes], encoded_in: Callable[[bytes, bytes], Encoded]
    ) -> None:
        self.name = name
        self._fields = fields
        self._encoded_in = encoded_in
        self.watched = (key,)
        self.read: list[Command] = [("HMGET", key, *fields)]

    def values(self, answers: Sequence[Any]) -> list[Change]:
        (found,) = answers
        with reading_stored("", self.name):
            return [
                (self._encoded_in(field, stored), partial(_set_field, *self.watched, field))
                for field, stored in zip(self._fields, found, strict=True)
                if stored is not None
            ]


def _in_dictionary(number: bytes, stored: bytes) -> Encoded:
    return encoded_in_dictionary(int(number), stored)


def _set_element(name: bytes, index: int, new: bytes) -> list[Command]:
    return [("LSET", name, index, new)]


def _set_scored(name: bytes, score: bytes, new: bytes) -> list[Command]:
    return [("ZREMRANGEBYSCORE", name, score, score), ("ZADD", name, score, new)]


def _set_field(name: bytes, field: bytes, new: bytes) -> list[Command]:
    return [("HSET", name, field, new)]


class RedisKeyed:
    """A KeyedStore over the keys of one schema."""

    _pool: Pool
    _keys: Keys
    _rows: Rows
    _lease: ShardLease
    _key: CommitKey

    @property
    def key_problem(self) -> str | None:
        return self._key.problem

    async def key_checks(self, log_id: str) -> dict[int, bytes]:
        log, checks = await self._pool.read_at_once(("GET", self._keys.log), ("HGETALL", self._keys.checks))
        if not is_bound_to(log, log_id):
            return {}
        return {int(number): check for number, check in zip(checks[::2], checks[1::2], strict=True)}

    async def add_key_check(self, number: int, check: bytes) -> None:
        await self._pool.run(("HSETNX", self._keys.checks, number, check))

    async def remove_key_check(self, number: int) -> None:
        await self._pool.run(("HDEL", self._keys.checks, number))

    async def count_keys(self) -> list[KeyCount]:
        counts: Counter[tuple[str, int | None]] = Counter()
        async for part, changes in self._read_parts():
            for it, _ in changes:
                counts[part.name or it.place.part, key_number(it.value)] += 1
        return [KeyCount(*of, values) for of, values in counts.items()]

    async def reencrypt(self) -> AsyncGenerator[Rewritten]:
        self._key.forget()
        encryption = encryption_of(self._rows.codec)
        async for part, changes in self._read_parts():
            await self._key.prepare(self)
            if not all(encryption.is_current(it.value) for it, _ in changes):
                yield await self._replace(part)

    async def retire_key(self, number: int, check: bytes) -> int:
        await self.remove_key_check(number)
        needed = sum(count.values for count in await self.count_keys() if count.key == number)
        if needed:
            await self.add_key_check(number, check)
        else:
            async with self._lease.writing() as connection:
                await rewrite_file(connection)
        return needed

    async def _replace(self, part: _Part) -> Rewritten:
        """Replace the values of one part of the store. Raises `FenceLost` where their key is being retired."""
        encryption = encryption_of(self._rows.codec)
        outdated = 0
        for _ in range(REENCRYPT_ATTEMPTS_MAX):
            key = await self._key.prepare(self)
            async with self._lease.writing() as connection:
                watched = [*part.watched, self._keys.checks]
                read = [*part.read, ("HEXISTS", self._keys.checks, key or 0)]
                *answers, has_key = await connection.watch(watched, read)
                if key is not None and not has_key:
                    raise FenceLost("the key of a value is being retired", key=key)
                commands: list[Command] = []
                outdated = 0
                for it, replace in part.values(answers):
                    if not encryption.is_current(it.value):
                        with reading_stored(it.place.namespace, it.place.document):
                            commands += replace(it.replaced(encryption.reencrypt(it.place, it.value)))
                        outdated += 1
                if await connection.execute(commands):
                    return Rewritten(outdated, 0)
        return Rewritten(0, outdated)

    async def _read_parts(self) -> AsyncGenerator[tuple[_Part, list[Change]]]:
        """Read the parts, some at once: the round trip dominates."""
        waiting: list[_Part] = []
        async for part in self._parts():
            waiting.append(part)
            if len(waiting) == PARTS_MAX:
                for read in await self._read(waiting):
                    yield read
                waiting = []
        for read in await self._read(waiting):
            yield read

    async def _read(self, parts: Sequence[_Part]) -> list[tuple[_Part, list[Change]]]:
        if not parts:
            return []
        answers = iter(await self._pool.read_at_once(*(command for part in parts for command in part.read)))
        return [(part, part.values([next(answers) for _ in part.read])) for part in parts]

    async def _parts(self) -> AsyncGenerator[_Part]:
        """Yield what is read at one moment: each document, some dictionaries, some rejections of a namespace."""
        cursor = b"0"
        while True:
            pattern = self._keys.heads + b"*"
            ((cursor, names),) = await self._pool.run(
                ("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED_KEYS)
            )
            for name in names:
                yield _Document(self._keys, self._keys.document_of(name))
            if cursor == b"0":
                break
        async for part in self._hash("", self._keys.dictionaries, _in_dictionary):
            yield part
        (fields,) = await self._pool.run(("HKEYS", self._keys.counts))
        for field in fields:
            if field.startswith(b"x:"):
                namespace = field[2:].decode()
                async for part in self._rejections(namespace):
                    yield part

    async def _rejections(self, namespace: str) -> AsyncGenerator[_Part]:
        after, name = b"-inf", self._keys.rejections(namespace)
        while True:
            read: Command = ("ZRANGEBYSCORE", name, after, "+inf", "WITHSCORES", "LIMIT", 0, FIELDS_MAX)
            (found,) = await self._pool.run(read)
            if not found:
                break
            after = b"(" + found[-1]
            yield _Rejections(name, namespace, read)

        def in_rejection(_: bytes, stored: bytes) -> Encoded:
            return encoded_in_rejection(namespace, stored)

        async for part in self._hash(UNRESOLVED, self._keys.unresolved(namespace), in_rejection):
            yield part

    async def _hash(
        self, name: str, key: bytes, encoded_in: Callable[[bytes, bytes], Encoded]
    ) -> AsyncGenerator[_Part]:
        cursor = b"0"
        while True:
            ((cursor, found),) = await self._pool.run(("HSCAN", key, cursor, "COUNT", FIELDS_MAX))
            if found:
                yield _Fields(name, key, found[::2], encoded_in)
            if cursor == b"0":
                break
