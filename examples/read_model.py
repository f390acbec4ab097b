"""A read model in SQLite: the newest state of each document of a namespace, kept by its changes from the first one on.

`refold up`, then `python examples/read_model.py [http://127.0.0.1:8080 [FILE]]`. It makes two changes itself, and ends
once it has them. With a FILE, the next run continues where this one ended.
"""

import asyncio
import json
import sqlite3
import sys
from contextlib import aclosing

from refold.client import LogDiffers, NamespaceUpdate, Refold, apply_patch

TABLES = """
CREATE TABLE IF NOT EXISTS documents (name TEXT PRIMARY KEY, version INTEGER, state TEXT);
CREATE TABLE IF NOT EXISTS position (cursor TEXT);
"""


async def follow(refold: Refold, rows: sqlite3.Connection, until: int) -> None:
    """Take the changes after the stored cursor, up to one: each and its cursor in one transaction."""
    (cursor,) = rows.execute("SELECT cursor FROM position").fetchone() or ("0",)
    async with aclosing(refold.watch("shop", mode="changes", after=cursor)) as updates:
        async for update in updates:
            with rows:
                take(rows, update)
                rows.execute("REPLACE INTO position (rowid, cursor) VALUES (1, ?)", (update.cursor,))
            if update.sequence >= until:
                break


def take(rows: sqlite3.Connection, update: NamespaceUpdate) -> None:
    """Take a change, which may come again: a version that is not above the stored one is skipped."""
    found = rows.execute("SELECT version, state FROM documents WHERE name = ?", (update.document,))
    version, state = found.fetchone() or (0, "{}")
    if update.version > version:
        state = json.dumps(apply_patch(json.loads(state), update.patch))
        rows.execute("REPLACE INTO documents VALUES (?, ?, ?)", (update.document, update.version, state))


async def main(url: str, file: str = ":memory:") -> None:
    """Change something, bring the read model up to date, and query it."""
    rows = sqlite3.connect(file)
    rows.executescript(TABLES)
    async with Refold(url) as refold:
        await refold.put("shop", "order-1", {"total": 10})
        last = await refold.merge("shop", "order-1", {"total": 12, "paid": True})
        try:
            await follow(refold, rows, last.sequence)
        except LogDiffers:  # The log is another one: nothing of what was built from the former one holds.
            with rows:
                rows.execute("DELETE FROM documents")
                rows.execute("DELETE FROM position")
            await follow(refold, rows, last.sequence)
    for name, version, total in rows.execute(
        "SELECT name, version, json_extract(state, '$.total') FROM documents"
    ):
        print(name, "is at version", version, "with a total of", total)


asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8080"]))
