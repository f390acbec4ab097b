"""Find the encoded values of a store in its database, and flip single bits of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import asyncpg
from redis import Redis

from refold.store.layers import Place, RowCodec
from refold.store.layers.dictionaries import Dictionaries


class Recorded:
    """A RowCodec that notes what it has encoded."""

    def __init__(self, inner: RowCodec) -> None:
        self._inner = inner
        self.values: set[bytes] = set()

    @property
    def dictionaries(self) -> Dictionaries:
        return self._inner.dictionaries

    def encode(self, place: Place, plain: bytes) -> bytes:
        """Encode, and note the value."""
        encoded = self._inner.encode(place, plain)
        self.values.add(encoded)
        return encoded

    def decode(self, place: Place, stored: bytes) -> bytes:
        """Decode."""
        return self._inner.decode(place, stored)

    def end_of(self, stored: bytes) -> int:
        """Return how many bytes at the end of a stored value are an encoded one; 0 where none is."""
        return max((len(value) for value in self.values if stored.endswith(value)), default=0)


class Site(NamedTuple):
    """Where a value is: its kind, its bytes, how many at the end of them are encoded, and what replaces it."""

    kind: str
    stored: bytes
    encoded_bytes: int
    replace: Callable[[bytes, bytes], Any]

    def flipped(self, rng: Random) -> bytes:
        """Return the value with one other bit."""
        changed = bytearray(self.stored)
        changed[-1 - rng.randrange(self.encoded_bytes)] ^= 1 << rng.randrange(8)
        return bytes(changed)


def _site(
    kind: str, stored: bytes, codec: Recorded, replace: Callable[[bytes, bytes], Any]
) -> Iterator[Site]:
    encoded_bytes = codec.end_of(stored)
    if encoded_bytes:
        yield Site(kind, stored, encoded_bytes, replace)


COLUMNS = {
    "documents": ("state",),
    "journal": ("entry",),
    "pages": ("snapshot", "payload"),
    "rejections": ("content",),
    "dictionaries": ("content",),
}


@contextmanager
def sqlite_sites(folder: Path, codec: Recorded) -> Iterator[list[Site]]:
    """Yield the values of a folder's live file."""
    database = sqlite3.connect(folder / "refold.sqlite", isolation_level=None)
    found: list[Site] = []
    for table, columns in COLUMNS.items():
        for column in columns:
            update = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"
            select = f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL"
            for row, stored in database.execute(select).fetchall():

                def replace(_: bytes, changed: bytes, update: str = update, row: int = row) -> None:
                    database.execute(update, (changed, row))

                found += _site(f"{table}.{column}", stored, codec, replace)
    try:
        yield found
    finally:
        database.close()


POSTGRES_COLUMNS = {"pages": ("snapshot", "payload"), "journal": ("content",), "rejections": ("content",)}


async def postgres_sites(connection: asyncpg.Connection, codec: Recorded) -> list[Site]:
    """Return the values of a database."""
    found: list[Site] = []
    for table, columns in POSTGRES_COLUMNS.items():
        at = "last_sequence" if table == "pages" else "sequence"
        for column in columns:
            names = f"namespace, document, {at}"
            select = f"SELECT {names}, {column} FROM {table} WHERE {column} IS NOT NULL"
            update = f"UPDATE {table} SET {column} = $1 WHERE ({names}) = ($2, $3, $4)"
            for *key, stored in await connection.fetch(select):

                def replace(_: bytes, changed: bytes, update: str = update, key: list[Any] = key) -> Any:
                    return connection.execute(update, changed, *key)

                found += _site(f"{table}.{column}", stored, codec, replace)
    return found


@contextmanager
def redis_sites(path: Path, codec: Recorded) -> Iterator[list[Site]]:
    """Yield the values of a server, by the kinds of their keys."""
    with Redis(unix_socket_path=str(path)) as server:
        found: list[Site] = []
        for key in server.scan_iter():
            kind = key.split(b":")[2].decode()
            for stored, replace in _elements(server, key, server.type(key)):
                found += _site(kind, stored, codec, replace)
        yield found


def _elements(
    server: Redis, key: bytes, kind: bytes
) -> Iterator[tuple[bytes, Callable[[bytes, bytes], Any]]]:
    if kind == b"string":
        yield server.get(key), lambda _, changed: server.set(key, changed)
    elif kind == b"list":
        for at, stored in enumerate(server.lrange(key, 0, -1)):
            yield stored, lambda _, changed, at=at: server.lset(key, at, changed)
    elif kind == b"hash":
        for field, stored in server.hgetall(key).items():
            yield stored, lambda _, changed, field=field: server.hset(key, field, changed)
    elif kind == b"zset":
        for stored, score in server.zrange(key, 0, -1, withscores=True):

            def replace(now: bytes, changed: bytes, score: float = score) -> None:
                server.zrem(key, now)
                server.zadd(key, {changed: score})

            yield stored, replace


Sites = AbstractContextManager[list[Site]]
