"""Which log a schema projects, and how far: bound once, refused to any other.

For this adapter alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from refold.core.checkpoint import Checkpoint
from refold.core.errors import StoreDamaged, StoreDiffers
from refold.core.limits import PARTITIONS
from refold.core.shard import first_checkpoints
from refold.store.postgres.pool import Connection, Pool, translated
from refold.store.postgres.rows import checkpoint_columns, to_checkpoint
from refold.store.postgres.sql import SQL


class Bound(NamedTuple):
    """A projection's checkpoints, and which making of it they are of: a rebuild makes another."""

    checkpoints: list[Checkpoint]
    epoch: UUID


async def bind(connection: Connection, log_id: str) -> Bound:
    """Make log and checkpoints where there are none; whoever comes second reads the first one's."""
    async with connection.transaction():
        await refuse_emptied(connection)
        await connection.execute(SQL["bind_log"], log_id)
        row = await connection.fetchrow(SQL["bound_log"])
        assert row is not None
        found, epoch = row
        if found != log_id:
            raise StoreDiffers("the database projects another log", expected=log_id, found=found)
        checkpoints = first_checkpoints(log_id)
        await connection.execute(SQL["make_checkpoints"], *checkpoint_columns(checkpoints))
        first = checkpoints[0]
        partitions = [checkpoint.partition for checkpoint in checkpoints]
        place = (first.fold, first.read_sequence, first.recorded_at)
        await connection.execute(SQL["make_shard"], partitions, *place)
        return Bound(await read_checkpoints(connection), epoch)


async def bound_log(dsn: str, schema: str) -> str | None:
    """Return the id of the log that a schema projects, without a look at its other tables; None where there is none."""
    connection = await Pool(dsn, schema, 1).connect()
    try:
        with translated():
            if not await connection.fetchval(SQL["find_log"]):
                return None
            log_id: str | None = await connection.fetchval(SQL["bound_log_id"])
            return log_id
    finally:
        connection.terminate()


async def put_aside(dsn: str, schema: str) -> str | None:
    """Rename a schema, with all that is in it; return its new name, or None where there is no such schema."""
    kept = f"{schema[:39]}_lost_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    connection = await Pool(dsn, schema, 1).connect()
    try:
        with translated():
            if not await connection.fetchval(SQL["find_schema"], schema):
                return None
            await connection.execute(f'ALTER SCHEMA "{schema}" RENAME TO "{kept}"')
    finally:
        connection.terminate()
    return kept


async def read_checkpoints(connection: Connection) -> list[Checkpoint]:
    """Read every partition's checkpoint, in their order; none before a log is bound. Raises `StoreDamaged`."""
    rows = await connection.fetch(SQL["checkpoints"])
    if len(rows) != PARTITIONS:
        await refuse_emptied(connection)
    return [to_checkpoint(row) for row in rows]


async def refuse_emptied(connection: Connection) -> None:
    """Raise `StoreDamaged` where a table has lost the rows that the others tell of."""
    table = await connection.fetchval(SQL["find_emptied"], PARTITIONS)
    if table is not None:
        raise StoreDamaged("a table of the projection has lost rows", table=table)
