"""Verify, rebuild and replay a projection, straight at NATS and the store. Used by verify, rebuild and export.

A long replay is divided into shards of the partitions, each folded by a child process (`run`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, cast

from refold.audit import rebuild, stores, verify
from refold.audit.independent import Coverage
from refold.audit.rebuild import ReplayShard
from refold.core.errors import (
    DataFolderInUse,
    Refused,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreOutdated,
    raising_first,
)
from refold.core.timestamp import format_time, parse_time
from refold.log import EventLog, end_of, sequence_at
from refold.projector.replay import begin_replay, replay_loop
from refold.store.layers import training
from refold.store.layers.dictionaries import DictionaryKeeper
from refold.store.ports import SchemaSwap, SnapshotStore
from refold.telemetry import redacted_text
from refold.transfer.stored import StoredSource
from refold.wiring.projector import limits_of
from refold.wiring.servers import log_info, make_embedded_log, opened, reach, servers_of
from refold.wiring.service import collect_seldom, hand_work, start_process
from refold.wiring.settings import Settings, handed_on, load
from refold.wiring.storage import encoding_of
from refold.wiring.store_url import StoreUrl, file_url
from refold.wiring.stores import (
    ConnectedStore,
    auditable,
    audited_store,
    bound_log,
    check_bound,
    dictionary_store,
    naming_repair,
    open_store,
    open_swap,
    store_named,
    store_urls,
)

PROCESSES_MAX: Final = 8
"""Each reads the whole log: with more, reading costs more than folding."""

CACHE_BYTES_MIN: Final = 16 * 1024 * 1024

SPACE_BYTES_MIN: Final = 256 * 1024 * 1024
SPACE_LOOK_SECONDS: Final = 1.0
"""What a temporary projection leaves of its disk for others, and how often that is looked at."""


class Replaced(NamedTuple):
    """The result of a rebuild, and the names of the fresh projection and of a damaged one that is kept.

    They are names of schemas, or of files; `kept` is empty where none is.
    """

    rebuilt: rebuild.Rebuilt
    kept: str
    fresh: str


async def run_verify(
    settings: Settings,
    listener: verify.Listener,
    scope: verify.Scope,
    coverage: Coverage | None = None,
    *,
    name: str | None = None,
) -> verify.Tally:
    """Compare a projection with its log, as `verify.verify` does.

    It is the one in the store of that name, by default in the first of full depth. Raises `StoreDamaged` where there
    is none: opening the store would create an empty one.
    """
    url = audited_store(settings, name)
    with naming_repair(url, settings):
        if await bound_log(url, settings) is None:
            raise StoreDamaged("the store holds no projection: it was emptied, or no projector has begun one")
    async with opened(settings, "audit", url, readers_max=2) as (log, store):
        return await verify.verify(log, auditable(store), listener, scope, coverage)


async def run_compare(
    settings: Settings, names: tuple[str, str], listener: stores.Listener
) -> stores.Comparison:
    """Compare two stores, by their names, as `stores.compare_stores` does. Raises `Refused`."""
    first, second = (store_named(store_urls(settings), name) for name in names)
    if first == second:
        raise Refused("bad_usage", "must be another store than the first", field="SECOND", shape=second.name)
    async with _opened(settings, first) as (log, left), _opened(settings, second) as (_, right):
        log_id = (await log.info()).log_id
        for store in (first, second):
            check_bound(store, await bound_log(store, settings), log_id)
        sides = stores.Side(first.name, left), stores.Side(second.name, right)
        return await stores.compare_stores(*sides, listener)


async def run_train(
    settings: Settings, namespace: str, *, name: str | None
) -> tuple[str, int, training.Trained]:
    """Train a dictionary of a namespace's states and keep it in their store; return the store's name and its number.

    The store is the one of that name, by default the first that keeps dictionaries. Raises `Refused`.
    """
    store = dictionary_store(settings, name)
    if not settings.compression.startswith("zstd"):
        rule = "must be zstd: no other method uses dictionaries"
        raise Refused("bad_setting", rule, field="REFOLD_COMPRESSION", shape=settings.compression)
    async with _opened(settings, store) as (log, reader):
        check_bound(store, await bound_log(store, settings), (await log.info()).log_id)
        counted = next((it for it in await reader.namespaces() if it.namespace == namespace), None)
        if counted is None:
            raise Refused(
                "nothing_found", f"{store.name} has no document of it", field="NAMESPACE", shape=namespace
            )
        states = await training.sample_states(reader, namespace)
        options = (settings.compression, settings.compression_bytes_min)
        trained = training.train(namespace, states, counted.documents, *options)
        number = await cast("DictionaryKeeper", reader).add_dictionary(namespace, trained.content)
        return store.name, number, trained


async def read_stores_status(settings: Settings) -> list[dict[str, object]]:
    """Return what each store is and how far it is; `problem` where it cannot be read."""
    info = await log_info(settings, "audit")
    return [
        await _store_status(settings, store, info.log_id, info.last_sequence)
        for store in store_urls(settings)
    ]


async def _store_status(
    settings: Settings, store: StoreUrl, log_id: str, end_sequence: int
) -> dict[str, object]:
    facts: dict[str, object] = {
        "name": store.name,
        "kind": store.kind,
        "encoding": encoding_of(store, settings),
    }
    try:
        bound = await bound_log(store, settings)
        if bound != log_id:
            return {**facts, "problem": "not filled yet" if bound is None else f"of another log, {bound}"}
        opened = await open_store(store, settings, log_id, readers_max=1)
        try:
            committed = stores.committed_sequence(await opened.checkpoints())
            facts |= {"depth": opened.capabilities.depth.value, "server": await opened.server_version()}
        finally:
            await opened.close()
    except StoreError as error:
        return {**facts, "problem": redacted_text(str(error))}
    return {**facts, "sequence": committed, "lag": max(0, end_sequence - committed)}


async def run_rebuild(
    data: Path | None,
    into: str | None,
    listener: rebuild.Listener,
    *,
    name: str | None = None,
    is_compared: bool = True,
    processes: int | None = None,
) -> Replaced:
    """Rebuild a projection, and swap it with the live one if both are equal.

    It is the one in the store of that name, by default in the first of full depth. In PostgreSQL it is made in the
    schema `into`, in files beside the live file.

    Without `is_compared` the live one is damaged: it is kept under another name. `processes` fold what is far behind;
    None: as many as there are processors, at most `PROCESSES_MAX`. If no system runs on the data folder, its servers
    are started for as long as this takes. The live one may be of format 1.
    """
    async with _reached_or_started(data) as found, AsyncExitStack() as repair:
        store = audited_store(found, name, is_rebuilt=True)
        repair.enter_context(naming_repair(store, found))
        live = _only(found, store)
        fresh = _fresh(live, store, into)
        schema = fresh.postgres_schema
        log_id = (await log_info(live, "rebuild")).log_id
        async with open_swap(store, live, log_id, fresh_schema=schema, is_kept=not is_compared) as swap:
            if is_compared:
                with suppress(StoreOutdated):
                    await _bind(live, store)
            else:
                # What an earlier rebuild has left is continued, unless it is damaged.
                try:
                    await _bind(fresh, replace(store, is_fresh=True))
                except StoreDamaged:
                    await swap.clear()
            async with _opened(fresh, replace(store, is_fresh=True)) as (log, filled):
                parts = _parts(
                    fresh, log, auditable(filled), swap, is_compared=is_compared, processes=processes
                )
                rebuilt = await rebuild.rebuild(parts, listener)
                kept = "" if is_compared else swap.kept
                return Replaced(rebuilt, kept, schema if store.kind == "postgres" else str(store.folder))


def _only(settings: Settings, store: StoreUrl) -> Settings:
    """Return the settings with one store alone: children that are handed them replay into it."""
    return load(**handed_on(settings, stores=replace(store, retries=None).text, projector_store=None))


async def _bind(settings: Settings, store: StoreUrl) -> None:
    """Open a projection, and check that it is one of the log."""
    async with _opened(settings, store) as (log, projection):
        await auditable(projection).bind((await log.info()).log_id)


def _fresh(settings: Settings, store: StoreUrl, into: str | None) -> Settings:
    """Return the settings with another schema than the live one; by default the live one's name with `_rebuild`."""
    if store.kind != "postgres":
        if into is not None:
            rule = f"is a schema of PostgreSQL; {store.name} is rebuilt beside the live projection"
            raise Refused("bad_usage", rule, field="--into", shape=into)
        return settings
    into = into or f"{settings.postgres_schema}_rebuild"
    if into == settings.postgres_schema:
        raise Refused("bad_usage", "must be another schema than the live one", field="--into", shape=into)
    return settings.model_copy(update={"postgres_schema": into})


def _parts(
    fresh: Settings,
    log: EventLog,
    store: SnapshotStore,
    swap: SchemaSwap,
    *,
    is_compared: bool,
    processes: int | None,
) -> rebuild.Parts:
    return rebuild.Parts(
        log=log,
        fresh=store,
        swap=swap,
        is_compared=is_compared,
        open_loop=partial(replay_loop, log, store, limits_of(fresh)),
        processes=min(PROCESSES_MAX, processes or processors()),
        replay_in_shards=partial(replay_in_processes, fresh),
    )


@asynccontextmanager
async def replayed(
    settings: Settings, namespace: str, at: str | None, progress: Callable[[int, int], None]
) -> AsyncIterator[StoredSource]:
    """Fold the log into a temporary projection, up to a recorded time or its end, for an export of a namespace.

    Raises `Refused` for a namespace without an event and for a time in the future, and what `replayed_store` raises.
    """
    end = partial(_end_of_export, namespace=namespace, at=at)
    async with replayed_store(settings, end, progress) as (_, store, until_sequence):
        yield StoredSource(store, namespace, until_sequence)


@asynccontextmanager
async def replayed_store(
    settings: Settings, end: Callable[[EventLog], Awaitable[int]], progress: Callable[[int, int], None]
) -> AsyncIterator[tuple[EventLog, SnapshotStore, int]]:
    """Fold the log into a temporary projection, up to the sequence that `end` returns; yield the log, it and that.

    `progress` is called with the events that are folded and those to be folded. The projection is encrypted as the
    settings say, and its folder is removed at the end of the block. Raises `StoreFull`.
    """
    collect_seldom()
    with TemporaryDirectory(prefix="refold-replay-") as folder:
        alone = load(**handed_on(settings, stores=file_url(Path(folder)), projector_store=None))
        async with _opened(alone, replace(store_urls(alone)[0], is_fresh=True)) as (log, opened_store):
            until_sequence = await end(log)
            store = auditable(opened_store)
            parts = rebuild.ReplayParts(
                log=log,
                fresh=store,
                open_loop=partial(replay_loop, log, store, limits_of(alone)),
                processes=min(PROCESSES_MAX, processors()),
                replay_in_shards=partial(replay_in_processes, alone),
            )
            with raising_first():
                async with asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(_watch_space(folder), name="space")
                    await rebuild.replay(parts, until_sequence, progress)
                    watching.cancel()
            yield log, store, until_sequence


async def _end_of_export(log: EventLog, *, namespace: str, at: str | None) -> int:
    """Return the last sequence that an export needs."""
    info = await log.info()
    async with aclosing(log.read_namespace(namespace, 0, info.last_sequence)) as events:
        if await anext(events, None) is None:
            raise Refused("namespace_unknown", f"the log has no event of a namespace {namespace}")
    if at is None:
        return await end_of(log)
    time = parse_time(at)
    if time > info.time:
        now = format_time(info.time)
        rule = f"must be a time at or before now, which is {now} by the broker's clock"
        raise Refused("time_in_future", rule, field="at", shape=at)
    return await sequence_at(log, time)


async def _watch_space(folder: str) -> None:
    while True:
        if (free := shutil.disk_usage(folder).free) < SPACE_BYTES_MIN:
            message = f"the disk of {folder} is nearly full: set TMPDIR to a folder on a larger one"
            raise StoreFull(message, free_bytes=free)
        await asyncio.sleep(SPACE_LOOK_SECONDS)


@asynccontextmanager
async def _reached_or_started(data: Path | None) -> AsyncIterator[Settings]:
    """Reach the servers as `reach` does; if no system runs on the data folder, start them."""
    settings = load(data=data)
    if settings.names_servers:
        yield settings
        return
    async with AsyncExitStack() as stack:
        try:
            servers = await stack.enter_async_context(servers_of(settings))
        except DataFolderInUse:
            settings = reach(data)
        else:
            settings = servers.settings(settings)
            await make_embedded_log(servers, settings)
        yield settings


def _opened(
    settings: Settings, store: StoreUrl, shard: str = ""
) -> AbstractAsyncContextManager[tuple[EventLog, ConnectedStore]]:
    return opened(settings, "audit", store, shard=shard, readers_max=2)


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


async def replay_in_processes(settings: Settings, shards: Sequence[ReplayShard], until_sequence: int) -> None:
    """Fold all shards of the settings' schema up to a sequence. Raises `ChildFailed`, which ends the others too."""
    cache = max(CACHE_BYTES_MIN, settings.cache_bytes_max // len(shards))
    flags = handed_on(settings, cache_bytes_max=cache)
    with raising_first():
        async with asyncio.TaskGroup() as tasks:
            for shard in shards:
                tasks.create_task(
                    _replay_in_process(flags, shard, until_sequence), name=f"shard {shard.name}"
                )


async def _replay_in_process(flags: dict[str, object], shard: ReplayShard, until_sequence: int) -> None:
    process = start_process("audit")
    try:
        work = {"shard": shard.name, "partitions": shard.partitions, "until_sequence": until_sequence}
        hand_work(process, Path(os.devnull), flags, **work)
        if await process.ended():
            raise process.failure(f"failed at shard {shard.name} of the replay")
    finally:
        await process.stop()


async def run(settings: Settings, *, shard: str, partitions: list[int], until_sequence: int) -> None:
    """Replay one shard into the fresh projection, as a service that ends by itself."""
    collect_seldom()
    fresh = replace(store_urls(settings)[0], is_fresh=True)
    async with _opened(settings, fresh, shard) as (log, store):
        loop = await begin_replay(log, store, limits_of(settings), tuple(partitions))
        await loop.run(until_sequence)
