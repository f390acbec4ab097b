"""The keys of the values: the `KeyedStore` of PostgreSQL.

Part of the PostgreSQL adapter. Each row is replaced in a transaction of its own, which so never holds one row while it
waits for another.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, NamedTuple

from refold.store import reading_stored
from refold.store.keyed import CommitKey, KeyCount, Rewritten, encryption_of
from refold.store.layers import Place
from refold.store.layers.encryption import Encryption, begin_of, key_number
from refold.store.postgres.pool import SQL, Connection, Pool, Row, transaction, translated
from refold.store.postgres.rows import REJECTION_COLUMNS, SEALED, Rows, key_of, rows_of

REENCRYPT_ROWS_MAX: Final = 100
"""Rows of one batch."""

SCAN_SECONDS: Final = 6 * 3_600.0
"""The longest that one statement may take that looks at all rows."""

Replacement = tuple[object, ...]
"""The values of `replace_…` after the row's key: those that were read, and the new ones."""


class _Table(NamedTuple):
    """How the rows of a table are found, read and replaced."""

    outdated: str
    read: str
    replace: str
    begin: tuple[object, ...]
    """What comes before all keys of rows."""
    values_of: Callable[[Rows, Row], Replacement]


class PostgresKeyed:
    """A KeyedStore over one schema."""

    _pool: Pool
    _rows: Rows
    _key: CommitKey

    @property
    def key_problem(self) -> str | None:
        return self._key.problem

    async def key_checks(self, log_id: str) -> dict[int, bytes]:
        async with self._pool.lend() as connection:
            return {row[0]: row[1] for row in await connection.fetch(SQL["key_checks"], log_id)}

    async def add_key_check(self, number: int, check: bytes) -> None:
        async with self._pool.lend() as connection:
            await connection.execute(SQL["add_key_check"], number, check)

    async def remove_key_check(self, number: int) -> None:
        async with self._pool.lend() as connection:
            await connection.execute(SQL["remove_key_check"], number)

    async def count_keys(self) -> list[KeyCount]:
        async with self._pool.connected() as connection:
            return await _count(connection)

    async def reencrypt(self) -> AsyncGenerator[Rewritten]:
        self._key.forget()
        encryption_of(self._rows.codec)
        async with self._pool.connected() as connection:
            for table in _TABLES:
                after = table.begin
                while True:
                    key = await self._key.prepare(self)
                    with translated():
                        given = (*after, self._begin(table, key), REENCRYPT_ROWS_MAX)
                        found = await connection.fetch(SQL[table.outdated], *given, timeout=SCAN_SECONDS)
                        if not found:
                            break
                        written = [await self._replace(connection, table, tuple(row), key) for row in found]
                    after = tuple(found[-1])
                    yield Rewritten(sum(written), len(written) - sum(written))

    async def retire_key(self, number: int, check: bytes) -> int:
        """Hold the key's row until the count is known: commits under the key wait for it, and find it removed."""
        async with self._pool.connected() as connection, transaction(connection):
            await connection.execute(SQL["commit_synchronously"])
            # A store from before check values has none; a writer that adds it waits for this one.
            await connection.execute(SQL["add_key_check"], number, check)
            await connection.execute(SQL["remove_key_check"], number)
            needed = sum(count.values for count in await _count(connection) if count.key == number)
            if needed:
                await connection.execute(SQL["add_key_check"], number, check)
        return needed

    def _begin(self, table: _Table, key: int | None) -> bytes | None:
        """Return what the values of a table should begin with; None where they should not be encrypted."""
        are_plain = table is _STATES and not self._rows.has_encoded_states
        return None if key is None or are_plain else begin_of(key)

    async def _replace(self, connection: Connection, table: _Table, at: Replacement, key: int | None) -> bool:
        """Replace one row's values; False where it has changed meanwhile."""
        row = await connection.fetchrow(SQL[table.read], *at)
        if row is None:
            return False
        with reading_stored(*key_of(row)):
            values = table.values_of(self._rows, row)
        return rows_of(await connection.execute(SQL[table.replace], key, *at, *values)) == 1


async def _count(connection: Connection) -> list[KeyCount]:
    with translated():
        found = await connection.fetch(SQL["count_keys"], timeout=SCAN_SECONDS)
    return [KeyCount(row["part"], key_number(row["begin"] or b""), row["values"]) for row in found]


def _state(rows: Rows, row: Row) -> Replacement:
    key = key_of(row)
    return row["state"], rows.of_state(key, rows.to_state(key, row["state"]))


def _entry(rows: Rows, row: Row) -> Replacement:
    shown, content = rows.sealed(key_of(row), rows.to_entry(row))
    return row["content"], *(getattr(shown, name) for name in SEALED), shown.conflict, content


def _page(rows: Rows, row: Row) -> Replacement:
    codec, snapshot, payload = rows.codec, row["snapshot"], row["payload"]
    assert isinstance(codec, Encryption)
    key, sequence = key_of(row), row["last_sequence"]
    if snapshot is not None:
        snapshot = codec.reencrypt(Place("pages.snapshot", *key, sequence), snapshot)
    return (
        row["snapshot"],
        payload,
        snapshot,
        codec.reencrypt(Place("pages.payload", *key, sequence), payload),
    )


def _rejection(rows: Rows, row: Row) -> Replacement:
    made: dict[str, Any] = dict(
        zip(REJECTION_COLUMNS, rows.of_rejection(rows.to_rejection(row)), strict=True)
    )
    return row["content"], *(made[name] for name in _REJECTION_VALUES)


_REJECTION_VALUES: Final = ("detail", "about", "subject", "headers", "body", "content")

_STATES: Final = _Table("outdated_documents_keys", "read_document", "replace_state", ("", ""), _state)
_TABLES: Final = (
    _STATES,
    _Table("outdated_journal_keys", "read_entry", "replace_entry", ("", "", 0), _entry),
    _Table("outdated_pages_keys", "read_page", "replace_page", ("", "", 0), _page),
    _Table("outdated_rejections_keys", "read_rejection", "replace_rejection", (-1, 0), _rejection),
)
