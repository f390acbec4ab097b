"""Rows written by COPY with nothing else to do: a journal of events, and documents that are there already.

Tasks for `bench.worker`; used where the projection is written. As the projector does, they do not wait for
the disk.
"""

from __future__ import annotations

import random
import re
import time
from importlib.resources import files
from typing import Any, Final

import asyncpg

from bench.signals import Signals
from refold.bench.workload import NAMESPACE, Kind, Workload, small_events

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARTS: Final = _NAME.split((files(__package__) / "queries.sql").read_text(encoding="utf-8"))
SQL: Final = dict(zip(_PARTS[1::2], map(str.strip, _PARTS[2::2]), strict=True))

JOURNAL_COLUMNS: Final = ("namespace", "document", "sequence", "recorded_at", "version", "body")
DOCUMENT_COLUMNS: Final = ("namespace", "document", "version", "last_sequence", "recorded_at", "state")


async def copy_journal(
    signals: Signals, *, dsn: str, events: int, commit_events: int, kind: Kind
) -> dict[str, Any]:
    """Write events as journal rows, one COPY a commit."""
    connection = await connect(dsn)
    try:
        await connection.execute(SQL["drop_ground_journal"])
        await connection.execute(SQL["make_ground_journal"])
        rows = [
            (NAMESPACE, event.document, number, number, number, event.body)
            for number, event in enumerate(small_events(events, kind=kind))
        ]
        await signals.until_go()
        started_at = time.perf_counter()
        for first in range(0, events, commit_events):
            part = rows[first : first + commit_events]
            await connection.copy_records_to_table("bench_journal", records=part, columns=JOURNAL_COLUMNS)
        return {"rows": events, "seconds": time.perf_counter() - started_at}
    finally:
        await connection.execute(SQL["drop_ground_journal"])
        await connection.close()


async def copy_documents(
    signals: Signals, *, dsn: str, documents: int, document_bytes: int, commits: int, kind: Kind
) -> dict[str, Any]:
    """Write every document in each commit: COPY into a temporary table, one UPDATE from it."""
    connection = await connect(dsn)
    try:
        await _make_documents(connection)
        rows = _document_rows(documents, document_bytes, kind)
        await connection.copy_records_to_table("bench_documents", records=rows, columns=DOCUMENT_COLUMNS)
        await signals.until_go()
        started_at = time.perf_counter()
        for _ in range(commits):
            async with connection.transaction():
                await connection.copy_records_to_table(
                    "bench_changed", records=rows, columns=DOCUMENT_COLUMNS
                )
                await connection.execute(SQL["update_ground_documents"])
        return {"rows": documents * commits, "seconds": time.perf_counter() - started_at}
    finally:
        await connection.execute(SQL["drop_ground_documents"])
        await connection.close()


async def checkpoint(dsn: str, *, dropped_schema: str = "") -> None:
    """Drop a schema and write all that is dirty, so that the next measurement does not pay for the one before."""
    connection = await connect(dsn)
    try:
        if dropped_schema:
            await connection.execute(f"DROP SCHEMA {dropped_schema} CASCADE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def connect(dsn: str) -> asyncpg.Connection:
    """Connect as the projector does: commits do not wait for the disk, `json` is read as bytes."""
    settings = {"synchronous_commit": "off"}
    connection = await asyncpg.connect(dsn, ssl=False, server_settings=settings)
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary"
    )
    return connection


async def _make_documents(connection: asyncpg.Connection) -> None:
    await connection.execute(SQL["drop_ground_documents"])
    await connection.execute(SQL["make_ground_documents"])
    await connection.execute(SQL["make_ground_changed"])


def _document_rows(documents: int, document_bytes: int, kind: Kind) -> list[tuple[Any, ...]]:
    workload = Workload(documents=documents, document_bytes=document_bytes, kind=kind)
    rows = [(NAMESPACE, event.document, 1, 1, 1, event.body) for event in workload.events(documents)]
    # In the order of commits: by their first change, not by name.
    random.Random(1).shuffle(rows)
    return rows
