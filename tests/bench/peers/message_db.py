"""message-db, its functions called through psycopg: write_message, get_stream_messages, get_category_messages."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from work import BATCHES, Append, Change, arguments, fold, run

WRITE = "SELECT write_message(%s, %s, 'changed', %s, NULL, %s)"
READ = "SELECT data FROM get_stream_messages(%s, 0, %s)"
READ_CATEGORY = "SELECT stream_name, data, global_position FROM get_category_messages(%s, %s, %s)"
PAGE = 1_000
CATEGORIES = [f"b{size}" for size in BATCHES]


def install(connection: psycopg.Connection[Any], folder: Path) -> None:
    """Run the statements of install.sh without the role and pgcrypto, whose function PostgreSQL 13 has built in."""
    scripts = "".join((folder / f"install-{part}.sh").read_text() for part in ("functions", "indexes"))
    for name in (
        "schema/message-store.sql",
        "tables/messages.sql",
        *re.findall(r"\$base/(.+\.sql)", scripts),
    ):
        connection.execute((folder / name).read_text())


class MessageDb:
    """A stream a document, a category a kind of work."""

    def __init__(self, address: str, home: Path) -> None:
        """Install it."""
        self._address = address
        self._connection = self._connect()
        install(self._connection, home / "node_modules/@eventide/message-db/database")

    def writer(self) -> Append:
        """Connect a writer."""
        connection = self._connect()

        def append(document: str, version: int, change: Change) -> None:
            connection.execute(WRITE, _message(document, version, change))

        return append

    async def append(self, document: str, version: int, changes: list[Change]) -> None:
        """Write many in one transaction, pipelined: there is no function for it."""
        rows = [_message(document, version + at, each) for at, each in enumerate(changes)]
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(WRITE, rows)

    async def load(self, document: str, version: int | None) -> dict[str, Any]:
        """Read the stream's messages and fold them."""
        state: dict[str, Any] = {}
        # -1: all of them.
        for (data,) in self._connection.execute(READ, (document, version or -1)):
            fold(state, json.loads(data))
        return state

    async def read_all(self, total: int) -> None:
        """Read all categories page by page, as its consumers do, and fold in memory."""
        states: dict[str, dict[str, Any]] = {}
        events = 0
        for category in CATEGORIES:
            position = 1
            while rows := self._connection.execute(READ_CATEGORY, (category, position, PAGE)).fetchall():
                for document, data, _ in rows:
                    fold(states.setdefault(document, {}), json.loads(data))
                events += len(rows)
                position = rows[-1][2] + 1
        assert events == total

    def _connect(self) -> psycopg.Connection[Any]:
        options = "-c search_path=message_store,public"
        return psycopg.connect(self._address, autocommit=True, options=options)


def _message(document: str, version: int, change: Change) -> tuple[str, str, str, int]:
    # Its versions start at 0; -1 is a missing stream.
    return str(uuid4()), document, json.dumps(change), version - 1


if __name__ == "__main__":
    WORK = arguments()
    asyncio.run(run(MessageDb(WORK.address, WORK.home), WORK))
