"""The dictionaries of a database file: read when they are needed, added, and copied by a rebuild.

Part of the SQLite adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from refold.core.errors import StoreError
from refold.store import DAMAGES, reading_stored
from refold.store.layers.dictionaries import next_number
from refold.store.sqlite.keyed import require_key
from refold.store.sqlite.pool import (
    SQL,
    STORE_READ_WAIT_SECONDS,
    STORE_WRITE_WAIT_SECONDS,
    Connection,
    connect,
    translated,
)
from refold.store.sqlite.rows import Row, Rows


def find_dictionary(paths: Sequence[Path], number: int) -> Row | None:
    """Read a dictionary's row from the first file that has it: once in each process that needs it."""
    for path in filter(Path.exists, paths):
        with translated(), closing(connect(path, STORE_READ_WAIT_SECONDS)) as connection:
            row: Row | None = connection.execute(SQL["dictionary"], (number,)).fetchone()
        if row is not None:
            return row
    return None


def learn_dictionaries(connection: Connection, rows: Rows) -> None:
    """Make those known to the codec that were added since the last call. Raises `StoreDamaged`."""
    for row in connection.execute(SQL["dictionaries_after"], (rows.learned,)):
        with reading_stored(row[1], ""):
            rows.learn(row)
        rows.learned = row[0]


def add_dictionary(
    connection: Connection, rows: Rows, namespace: str, content: bytes, *, key: int | None, number: int = 0
) -> int:
    """Add one within a transaction, encrypted with that key; return its number, a new one without `number`.

    Raises `FenceLost`, and `Refused` where the file has as many as it may have.
    """
    require_key(connection, key)
    used = [row[0] for row in connection.execute(SQL["dictionaries_after"], (0,))]
    number = number or next_number(used)
    if number not in used:
        connection.execute(SQL["add_dictionary"], rows.of_dictionary(number, namespace, content))
    return number


def newest_dictionaries(path: Path, rows: Rows) -> list[tuple[int, str, bytes]]:
    """Read number, namespace and content of the newest of each namespace, as far as a file can be read."""
    found: list[tuple[int, str, bytes]] = []
    with suppress(StoreError), translated(), closing(connect(path, STORE_WRITE_WAIT_SECONDS)) as connection:
        for number, namespace, stored in connection.execute(SQL["newest_dictionaries"]):
            with suppress(*DAMAGES):
                found.append((number, namespace, rows.to_dictionary(number, namespace, stored)))
    return found
