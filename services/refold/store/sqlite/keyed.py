"""The keys of the values: the `KeyedStore` of SQLite.

Part of the SQLite adapter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from refold.core.errors import FenceLost
from refold.store import reading_stored
from refold.store.keyed import CommitKey, KeyCount, Rewritten, encryption_of
from refold.store.layers import Place
from refold.store.layers.encryption import Encryption, begin_of, key_number
from refold.store.sqlite.pool import SQL, Connection, Pool
from refold.store.sqlite.rows import Rows

REENCRYPT_VALUES_MAX: Final = 100
REENCRYPT_BYTES_MAX: Final = 1024 * 1024
"""Values that one transaction replaces: commits wait for it. One larger value is replaced alone."""


class _Value(NamedTuple):
    """A column of encoded values, and what their places are made of."""

    part: str
    table: str
    value: str
    sequence: str
    document: str = "document"


VALUES: Final = (
    _Value("documents.state", "documents", "state", "0"),
    _Value("journal", "journal", "entry", "sequence"),
    _Value("pages.snapshot", "pages", "snapshot", "last_sequence"),
    _Value("pages.payload", "pages", "payload", "last_sequence"),
    _Value("rejections", "rejections", "content", "sequence"),
    _Value("dictionaries", "dictionaries", "content", "number", "''"),
)
"""All columns of encoded values."""


class _Change(NamedTuple):
    """The parameters of `replace_value`."""

    new: bytes
    row: int
    old: bytes


class SqliteKeyed:
    """A KeyedStore in one database file."""

    _pool: Pool
    _rows: Rows
    _key: CommitKey

    @property
    def key_problem(self) -> str | None:
        return self._key.problem

    async def key_checks(self, log_id: str) -> dict[int, bytes]:
        async with self._pool.reading() as connection:
            return dict(connection.execute(SQL["key_checks"], (log_id,)).fetchall())

    async def add_key_check(self, number: int, check: bytes) -> None:
        await self._write("add_key_check", number, check)

    async def remove_key_check(self, number: int) -> None:
        await self._write("remove_key_check", number)

    async def count_keys(self) -> list[KeyCount]:
        return await self._pool.scan(_count)

    async def reencrypt(self) -> AsyncGenerator[Rewritten]:
        self._key.forget()
        encryption = encryption_of(self._rows.codec)
        for column in VALUES:
            after = 0
            while True:
                key = await self._key.prepare(self)
                found = await self._pool.scan(partial(_outdated, column, encryption, after, key))
                if not found:
                    break
                after = found[-1].row
                written = await self._pool.write(partial(self._replace, column, found, key))
                yield Rewritten(written, len(found) - written)

    async def retire_key(self, number: int, check: bytes) -> int:
        await self.remove_key_check(number)
        needed = sum(count.values for count in await self.count_keys() if count.key == number)
        if needed:
            await self.add_key_check(number, check)
        else:
            await self._write("wait_for_disk")
        return needed

    async def _write(self, statement: str, *given: object) -> None:
        def write(connection: Connection) -> None:
            with self._pool.transaction(connection, is_synchronous=True):
                connection.execute(SQL[statement], given)

        await self._pool.write(write)

    def _replace(
        self, column: _Value, changes: Sequence[_Change], key: int | None, connection: Connection
    ) -> int:
        with self._pool.transaction(connection, is_synchronous=False):
            require_key(connection, key)
            return connection.executemany(_sql("replace_value", column), changes).rowcount


def require_key(connection: Connection, key: int | None) -> None:
    """Raise `FenceLost` where the key of what is to be written has no check value."""
    if key is not None and not connection.execute(SQL["has_key_check"], (key,)).fetchone()[0]:
        raise FenceLost("the key of a commit is being retired", key=key)


def _count(connection: Connection) -> list[KeyCount]:
    return [
        KeyCount(column.part, key_number(begin or b""), values)
        for column in VALUES
        for begin, values in connection.execute(_sql("count_keys", column))
    ]


def _outdated(
    column: _Value, encryption: Encryption, after: int, key: int | None, connection: Connection
) -> list[_Change]:
    """Return the next values that are to be replaced, by rows."""
    changes: list[_Change] = []
    size = 0
    given = (after, None if key is None else begin_of(key))
    rows: Any = connection.execute(_sql("outdated_values", column), given)
    for row, namespace, document, sequence, stored in rows:
        place = Place(column.part, namespace, document, sequence)
        with reading_stored(namespace, document):
            changes.append(_Change(encryption.reencrypt(place, stored), row, stored))
        size += len(stored)
        if len(changes) == REENCRYPT_VALUES_MAX or size >= REENCRYPT_BYTES_MAX:
            break
    return changes


def _sql(statement: str, column: _Value) -> str:
    return SQL[statement].format_map(column._asdict())
