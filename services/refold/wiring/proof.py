"""What proves and renews a projection, put together: verify and rebuild, straight at NATS and PostgreSQL.

Used by the commands of the same names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from refold.core.errors import DataFolderInUse, Refused, StoreDamaged
from refold.log import EventLog
from refold.projector import rebuild, verify
from refold.store.postgres import PostgresStore
from refold.store.postgres.swap import PostgresReplacement, PostgresSchemaSwap
from refold.wiring.log import make_embedded_log, open_log
from refold.wiring.projector import bounds_of, state_lag_of
from refold.wiring.replaying import PROCESSES_MAX, processors, replay_in_processes
from refold.wiring.servers import reach, reaching, servers_of
from refold.wiring.settings import Settings, load


class Replaced(NamedTuple):
    """How a rebuild from nothing ended, and the schema that the damaged projection is kept in."""

    rebuilt: rebuild.Rebuilt
    kept: str


async def run_verify(settings: Settings, listener: verify.Listener, scope: verify.Scope) -> verify.Tally:
    """Hold the projection against its log."""
    async with AsyncExitStack() as endings:
        log = await endings.enter_async_context(_log(settings))
        store = await endings.enter_async_context(_store(settings, settings.postgres_schema))
        return await verify.verify(log, store, listener, scope)


async def run_rebuild(
    settings: Settings, into: str, listener: rebuild.Listener, *, processes: int | None = None
) -> rebuild.Rebuilt:
    """Make the projection anew in the schema `into`, and put it in the live one's place when it is equal.

    What is far behind is folded by so many processes; None: as many as there are processors, at most eight.
    """
    live = settings.postgres_schema
    if into == live:
        raise Refused("bad_usage", "must be another schema than the live one", field="--into", shape=into)
    async with AsyncExitStack() as endings:
        parts = rebuild.Parts(
            log=await endings.enter_async_context(_log(settings)),
            live=await endings.enter_async_context(_store(settings, live)),
            fresh=await endings.enter_async_context(_store(settings, into)),
            swap=await endings.enter_async_context(
                PostgresSchemaSwap.open(settings.required("postgres_url"), live=live, fresh=into)
            ),
            bounds=bounds_of(settings),
            processes=min(PROCESSES_MAX, processes or processors()),
            replay_in_shards=partial(replay_in_processes, settings, into),
        )
        return await rebuild.rebuild(parts, listener)


async def run_from_nothing(
    data: Path | None, into: str | None, listener: rebuild.Listener, *, processes: int | None = None
) -> Replaced:
    """Make the projection anew from the log alone; the damaged one is kept in a schema of another name.

    Where no system runs on the data folder, its servers are started for as long as this takes.
    """
    async with _reached(data) as settings:
        live = settings.postgres_schema
        fresh = into or f"{live}_rebuild"
        if fresh == live:
            raise Refused(
                "bad_usage", "must be another schema than the live one", field="--into", shape=fresh
            )
        dsn, kept = settings.required("postgres_url"), _kept_name(live)
        async with AsyncExitStack() as endings:
            log = await endings.enter_async_context(_log(settings))
            replacement = await endings.enter_async_context(
                PostgresReplacement.open(dsn, live=live, fresh=fresh, kept=kept)
            )
            parts = rebuild.FromNothing(
                log=log,
                fresh=await endings.enter_async_context(_begun_again(settings, fresh, replacement)),
                replacement=replacement,
                bounds=bounds_of(settings),
                processes=min(PROCESSES_MAX, processes or processors()),
                replay_in_shards=partial(replay_in_processes, settings, fresh),
            )
            return Replaced(await rebuild.rebuild_from_nothing(parts, listener), replacement.kept)


def _kept_name(live: str) -> str:
    """Name the schema that a damaged one is kept as; PostgreSQL allows 63 bytes."""
    return f"{live[:39]}_damaged_{datetime.now(UTC):%Y%m%d_%H%M%S}"


@asynccontextmanager
async def _begun_again(
    settings: Settings, schema: str, replacement: PostgresReplacement
) -> AsyncIterator[PostgresStore]:
    """Open what an earlier rebuild has left, to go on with it; where that is damaged itself, begin anew."""
    async with _log(settings) as log:
        log_id = (await log.info()).log_id
    try:
        async with _store(settings, schema) as store:
            await store.bind(log_id)
    except StoreDamaged:
        await replacement.clear()
    async with _store(settings, schema) as store:
        yield store


@asynccontextmanager
async def _reached(data: Path | None) -> AsyncIterator[Settings]:
    """Reach the servers as `reach` does; where no system runs on the data folder, start them."""
    settings = load(data=data)
    if "data" not in settings.model_fields_set and settings.nats_url and settings.postgres_url:
        yield reach(data)
        return
    async with AsyncExitStack() as endings:
        try:
            servers = await endings.enter_async_context(servers_of(settings))
        except DataFolderInUse:
            settings = reach(data)
        else:
            await make_embedded_log(servers, settings.postgres_schema)
            settings = reaching(servers, settings)
        yield settings


@asynccontextmanager
async def _log(settings: Settings) -> AsyncIterator[EventLog]:
    log = await open_log(settings.required("nats_url"), "refold-proof")
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def _store(settings: Settings, schema: str) -> AsyncIterator[PostgresStore]:
    dsn, state_lag = settings.required("postgres_url"), state_lag_of(settings)
    store = await PostgresStore.open(dsn, schema=schema, readers_max=2, state_lag=state_lag)
    try:
        yield store
    finally:
        await store.close()
