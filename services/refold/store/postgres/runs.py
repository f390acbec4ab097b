"""A document's history: the run that holds a point, runs in order, one entry.

For this adapter alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from refold.core.fold import ID_WINDOW_EVENTS
from refold.core.identity import id_digest, recall
from refold.core.outcome import Entry
from refold.core.page import Run
from refold.store.bounds import Bounds, first_bounds, next_bounds
from refold.store.damage import damaged, reading_stored
from refold.store.postgres.load import load_documents
from refold.store.postgres.pool import Pool, Row
from refold.store.postgres.rows import ROW_MISSING, to_entries, to_run
from refold.store.postgres.sql import SQL


async def read_run(pool: Pool, namespace: str, document: str, bounds: Bounds) -> Run | None:
    """Read the last page within the bounds; None where the document never had an event."""
    row = await _read(pool, namespace, document, bounds)
    return _run(namespace, document, row) if row else None


async def read_runs(
    pool: Pool, namespace: str, document: str, *, after_version: int | None, is_descending: bool
) -> AsyncGenerator[Run, None]:
    """Yield runs in the order asked, one statement each.

    A closed page never changes and the next begins where it ends, so that a cut in between neither loses
    nor repeats an entry. Only a rebuild's pages begin and end elsewhere: what was given is left out.
    """
    bounds = first_bounds(after_version, is_descending=is_descending)
    edge: int | None = None
    while row := await _read(pool, namespace, document, bounds):
        run = _beyond(_run(namespace, document, row), edge, is_descending=is_descending)
        yield run
        if is_descending and run.base_sequence == 0:
            return
        if not is_descending and row["payload"] is None:
            return
        bounds = next_bounds(run, is_descending=is_descending)
        edge = run.base_sequence if is_descending else run.entries[-1].sequence


def _beyond(run: Run, edge: int | None, *, is_descending: bool) -> Run:
    """Leave out what lies before the edge, seen in the order asked."""
    if edge is None or not run.entries:
        return run
    if is_descending:
        if run.entries[-1].sequence <= edge:
            return run
        return run._replace(entries=[entry for entry in run.entries if entry.sequence <= edge])
    if run.base_sequence >= edge:
        return run
    return run._replace(entries=[entry for entry in run.entries if entry.sequence > edge])


async def read_entry(pool: Pool, namespace: str, document: str, sequence: int) -> Entry | None:
    """Read one of a document's events, from its page or the journal."""
    async with pool.lend() as connection:
        row = await connection.fetchrow(SQL["entry"], namespace, document, sequence)
    assert row is not None
    with reading_stored(namespace, document):
        return next((entry for entry in to_entries(row) if entry.sequence == sequence), None)


async def find_id(pool: Pool, namespace: str, document: str, event_id: str) -> Entry | None:
    """Find the first event that carried this id in the document's id window."""
    async with pool.lend() as connection:
        found = await load_documents(connection, [(namespace, document)], has_states=False)
    if not found:
        return None
    oldest = found[0].events + 1 - ID_WINDOW_EVENTS
    known = recall(found[0].identities, id_digest(event_id), oldest)
    return await read_entry(pool, namespace, document, known[1].sequence) if known else None


async def _read(pool: Pool, namespace: str, document: str, bounds: Bounds) -> Row | None:
    async with pool.lend() as connection:
        row = await connection.fetchrow(SQL["run"], namespace, document, *bounds)
        if row is None and await connection.fetchval(SQL["find_rows_of"], namespace, document):
            raise damaged(namespace, document, ROW_MISSING)
    return row


def _run(namespace: str, document: str, row: Row) -> Run:
    """Take a run apart, and hold its entries against the document's counts."""
    with reading_stored(namespace, document):
        run = to_run(row)
    is_first, is_open = row["base_sequence"] is None, row["payload"] is None
    if not row["is_continued"] or (is_first and row["events"] != row["unpaged_events"]):
        raise damaged(namespace, document, "a page of its history is missing")
    if is_open and len(run.entries) != row["unpaged_events"]:
        counts = {"expected": row["unpaged_events"], "found": len(run.entries)}
        raise damaged(namespace, document, "the journal lacks events of it", **counts)
    return run
