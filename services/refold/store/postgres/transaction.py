"""Transactions that tell what has failed from what may have been committed.

For this adapter's commits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from refold.core.errors import StoreError, StoreUnavailable, TimedOut
from refold.store.postgres.pool import Connection, translated

_GONE: Final = ("08", "57P")
"""SQLSTATEs that begin so: the connection is lost, or ended by the server at any point, behind the commit too."""


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """Commit what is done within, or roll it back and raise.

    Raises `StoreUnavailable` with `is_unknown=True` where COMMIT was not answered. A connection whose
    transaction did not end is ended itself: the server then rolls back.
    """
    begun = connection.transaction()
    with translated():
        try:
            await begun.start()
        except BaseException:
            # BEGIN may be in force all the same: what follows on this connection would never be committed.
            connection.terminate()
            raise
        try:
            yield
        except BaseException:
            await _roll_back(connection, begun.rollback)
            raise
    try:
        with translated():
            await begun.commit()
    except (StoreUnavailable, TimedOut) as error:
        connection.terminate()
        raise StoreUnavailable("COMMIT was not answered", is_unknown=True, **error.facts) from error
    except BaseException:
        connection.terminate()
        raise


@asynccontextmanager
async def alone(connection: Connection) -> AsyncIterator[None]:
    """Run one statement as a transaction of its own.

    Raises `StoreUnavailable` with `is_unknown=True` where its connection was lost: it may be committed all the same.
    """
    try:
        with translated():
            yield
    except StoreUnavailable as error:
        if not str(error.facts.get("sqlstate", "08")).startswith(_GONE):
            raise
        connection.terminate()
        raise StoreUnavailable("a commit was not answered", is_unknown=True, **error.facts) from error


async def _roll_back(connection: Connection, roll_back: Callable[[], Awaitable[None]]) -> None:
    try:
        with translated():
            await roll_back()
    except (StoreError, TimedOut):
        connection.terminate()
    except BaseException:
        connection.terminate()
        raise
