"""PostgreSQL by itself, through psycopg: what a table of events and one of states cost without any event store."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg
from work import Append, Change, arguments, batched, fold, run

TABLES = """
CREATE TABLE events (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document text NOT NULL, version int NOT NULL, change jsonb NOT NULL, UNIQUE (document, version)
);
CREATE TABLE states (document text PRIMARY KEY, version int NOT NULL, state json NOT NULL);
"""
INSERT = "INSERT INTO events (document, version, change) VALUES (%s, %s, %s)"
READ = "SELECT change FROM events WHERE document = %s AND version <= %s ORDER BY version"
READ_ALL = "SELECT document, version, change FROM events ORDER BY position"
ROWS = 1_000
NEVER = 2**31 - 1


class RawPostgres:
    """The expected version is held by the unique key."""

    def __init__(self, address: str) -> None:
        """Make the tables."""
        self._address = address
        self._connection = psycopg.connect(address, autocommit=True)
        self._connection.execute(TABLES)

    def writer(self) -> Append:
        """Connect a writer."""
        connection = psycopg.connect(self._address, autocommit=True)

        def append(document: str, version: int, change: Change) -> None:
            connection.execute(INSERT, (document, version + 1, json.dumps(change)))

        return append

    async def append(self, document: str, version: int, changes: list[Change]) -> None:
        """Insert many in one transaction, pipelined."""
        rows = [(document, version + at, json.dumps(each)) for at, each in enumerate(changes, 1)]
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(INSERT, rows)

    async def load(self, document: str, version: int | None) -> dict[str, Any]:
        """Read the document's events and fold them."""
        state: dict[str, Any] = {}
        for (change,) in self._connection.execute(READ, (document, version or NEVER)):
            fold(state, change)
        return state

    async def read_all(self, total: int) -> None:
        """Read every event and fold it in memory."""
        assert self._folded()[1] == total

    async def rebuild(self, total: int) -> None:
        """Read every event, fold it in memory, write each document's last state: one transaction, by COPY."""
        states, events = self._folded()
        assert events == total
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute("TRUNCATE states")
            with cursor.copy("COPY states FROM STDIN") as copy:
                for document, (version, state) in states.items():
                    copy.write_row((document, version, json.dumps(state)))

    def _folded(self) -> tuple[dict[str, tuple[int, dict[str, Any]]], int]:
        states: dict[str, tuple[int, dict[str, Any]]] = {}
        events = 0
        with self._connection.transaction(), self._connection.cursor("all") as cursor:
            cursor.itersize = ROWS
            cursor.execute(READ_ALL)
            for rows in batched(iter(cursor), ROWS):
                events += len(rows)
                for document, version, change in rows:
                    state = states[document][1] if document in states else {}
                    states[document] = version, fold(state, change)
        return states, events


if __name__ == "__main__":
    WORK = arguments()
    asyncio.run(run(RawPostgres(WORK.address), WORK))
