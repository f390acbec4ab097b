"""Verify and rebuild a projection, straight at NATS and PostgreSQL. Used by the commands of the same names.

A long replay is divided into shards of the partitions, each folded by a process of its own: `python -m
refold.wiring.audit`, which is handed settings, shard and end on stdin in one line of JSON.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from refold.audit import rebuild, verify
from refold.audit.rebuild import ReplayShard
from refold.core import json_text
from refold.core.errors import DataFolderInUse, RefoldError, Refused, StoreDamaged
from refold.embedded.process import Command, LogFile, Process
from refold.log import EventLog
from refold.projector.loop import begin_replay, replay_loop
from refold.store.postgres import PostgresStore
from refold.store.postgres.audit import PostgresSchemaSwap
from refold.telemetry.logging import configure
from refold.wiring.log import make_embedded_log, open_log
from refold.wiring.projector import bounds_of, state_lag_of
from refold.wiring.servers import reach, reaching, servers_of
from refold.wiring.service import run_folding
from refold.wiring.settings import Settings, environment_without, handed_on, load

PROCESSES_MAX: Final = 8
"""Each reads the whole log: with more, reading costs more than folding."""

CACHE_BYTES_MIN: Final = 16 * 1024 * 1024


class Replaced(NamedTuple):
    """The result of a rebuild from nothing, and the schema in which the damaged projection is kept."""

    rebuilt: rebuild.Rebuilt
    kept: str


async def run_verify(settings: Settings, listener: verify.Listener, scope: verify.Scope) -> verify.Tally:
    """Compare the projection with its log."""
    async with AsyncExitStack() as endings:
        log = await endings.enter_async_context(_log(settings))
        store = await endings.enter_async_context(_store(settings, settings.postgres_schema))
        return await verify.verify(log, store, listener, scope)


async def run_rebuild(
    settings: Settings, into: str, listener: rebuild.Listener, *, processes: int | None = None
) -> rebuild.Rebuilt:
    """Rebuild the projection in the schema `into`, and swap it with the live one if both are equal.

    `processes` fold what is far behind; None: as many as there are processors, at most `PROCESSES_MAX`.
    """
    live = settings.postgres_schema
    if into == live:
        raise Refused("bad_usage", "must be another schema than the live one", field="--into", shape=into)
    async with AsyncExitStack() as endings:
        log = await endings.enter_async_context(_log(settings))
        fresh = await endings.enter_async_context(_store(settings, into))
        parts = rebuild.Parts(
            log=log,
            live=await endings.enter_async_context(_store(settings, live)),
            fresh=fresh,
            swap=await endings.enter_async_context(
                PostgresSchemaSwap.open(settings.required("postgres_url"), live=live, fresh=into)
            ),
            open_loop=partial(replay_loop, log, fresh, bounds_of(settings)),
            processes=min(PROCESSES_MAX, processes or processors()),
            replay_in_shards=partial(replay_in_processes, settings, into),
        )
        return await rebuild.rebuild(parts, listener)


async def run_from_nothing(
    data: Path | None, into: str | None, listener: rebuild.Listener, *, processes: int | None = None
) -> Replaced:
    """Rebuild the projection from the log alone; the damaged one is kept in a schema of another name.

    If no system runs on the data folder, its servers are started for as long as this takes.
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
                PostgresSchemaSwap.open(dsn, live=live, fresh=fresh, keep_as=kept)
            )
            store = await endings.enter_async_context(_resumed(settings, fresh, replacement))
            parts = rebuild.Parts(
                log=log,
                live=None,
                fresh=store,
                swap=replacement,
                open_loop=partial(replay_loop, log, store, bounds_of(settings)),
                processes=min(PROCESSES_MAX, processes or processors()),
                replay_in_shards=partial(replay_in_processes, settings, fresh),
            )
            return Replaced(await rebuild.rebuild(parts, listener), replacement.kept)


def _kept_name(live: str) -> str:
    """Return the name under which a damaged schema is kept; PostgreSQL allows 63 bytes."""
    return f"{live[:39]}_damaged_{datetime.now(UTC):%Y%m%d_%H%M%S}"


@asynccontextmanager
async def _resumed(
    settings: Settings, schema: str, replacement: PostgresSchemaSwap
) -> AsyncIterator[PostgresStore]:
    """Open what an earlier rebuild has left, to continue it; if that is damaged, start from an empty schema."""
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
    """Reach the servers as `reach` does; if no system runs on the data folder, start them."""
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
    log = await open_log(settings.required("nats_url"), "refold-audit")
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


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


async def replay_in_processes(
    settings: Settings, schema: str, shards: Sequence[ReplayShard], until_sequence: int
) -> None:
    """Fold all shards of a schema up to a sequence. Raises `ChildFailed`, which ends the others too."""
    cache = max(CACHE_BYTES_MIN, settings.cache_bytes_max // len(shards))
    flags = handed_on(settings, postgres_schema=schema, cache_bytes_max=cache)
    try:
        async with asyncio.TaskGroup() as tasks:
            for shard in shards:
                work = {"shard": shard.name, "partitions": shard.partitions, "until_sequence": until_sequence}
                tasks.create_task(_replay_in_process({**work, "settings": flags}), name=f"shard {shard.name}")
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _replay_in_process(work: dict[str, Any]) -> None:
    command = Command(
        name=f"shard {work['shard']} of the replay",
        arguments=(sys.executable, "-m", "refold.wiring.audit"),
        environment=environment_without(),
        stop_signal=signal.SIGTERM,
    )
    process = Process(command)
    try:
        process.hand(json_text.dumps(work) + b"\n", LogFile(Path(os.devnull)))
        if await process.ended():
            raise process.failure("failed")
    finally:
        await process.stop()


def main() -> None:
    """Replay the shard that is handed to this process; the last line of its log says what failed."""
    work = json_text.loads(sys.stdin.buffer.readline())
    settings = load(**work["settings"])
    configure(settings.log_level, service="replay")
    shard = ReplayShard(name=work["shard"], partitions=tuple(work["partitions"]))
    try:
        run_folding(_replay(settings, shard, work["until_sequence"]))
    except RefoldError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        sys.exit(1)


async def _replay(settings: Settings, shard: ReplayShard, until_sequence: int) -> None:
    log = await open_log(settings.required("nats_url"), "refold-replay")
    try:
        dsn, schema = settings.required("postgres_url"), settings.postgres_schema
        store = await PostgresStore.open(
            dsn, schema=schema, shard=shard.name, readers_max=2, state_lag=state_lag_of(settings)
        )
        try:
            loop = await begin_replay(log, store, bounds_of(settings), shard.partitions)
            await loop.run(until_sequence)
        finally:
            await store.close()
    finally:
        await log.close()


if __name__ == "__main__":
    main()
