"""Every store, with its layers on and off, beside the bare databases in the same run; and the cache of states.

Run by `python -m bench`. The servers and folders are temporary; what is committed is made before it is timed.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import asyncpg
import psutil
from redis import Redis

from bench import goals
from bench.ground.rows import copy_documents
from bench.processes import work
from bench.report import NO_DISK, Durability, Measure, Report, Samples
from bench.signals import Signals
from bench.system import PREFIX, Options, refuse_url
from refold.bench import machine
from refold.bench.workload import NAMESPACE, Kind, Workload
from refold.core.fold_state import first_checkpoints
from refold.core.history import Clock, Point
from refold.embedded.folder import open_folder
from refold.embedded.postgres import start_postgres
from refold.store import Commit
from refold.store.layers import COMPRESSED_BYTES_MIN, Place, RowCodec
from refold.store.layers.cached import CachedReader
from refold.store.layers.compression import Compression, Method
from refold.store.layers.dictionaries import Dictionary
from refold.store.layers.training import train
from refold.store.postgres import PostgresStore
from refold.store.redis import RedisStore
from refold.store.sqlite import SqliteStore
from support.encrypted import encryption
from support.redis_servers import RedisServer, redis_binary, running_redis, valkey_binary
from support.scribe import Scribe

LOG_ID: Final = "bench"
BULKS: Final = 3
SINGLES: Final = 500
IN_FLIGHT: Final = (1, 64)
READS_EACH: Final = 2_000
MEBIBYTE: Final = 1024 * 1024
CACHED_DOCUMENTS: Final = 10_000
CACHED_BYTES: Final = 10 * 1024
CACHE_BYTES: Final = 10_000_000
CACHED_READS: Final = 60_000
HOT_READS: Final = 0.8
CACHED_SHARES: Final = (0.2, 0.05)
"""Shares of the documents that four fifths of the reads are of: the first is twice the cache, the second half of it."""

LAYERS: Final[dict[str, Callable[[], RowCodec]]] = {
    "none": lambda: Compression(Method.none),
    "zstd": Compression,
    "dictionary": Compression,
    "zstd + encryption": lambda: encryption(LOG_ID),
}

POSTGRES_LAYERS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "none": lambda: {"codec": Compression(Method.none)},
    "zstd": lambda: {"codec": Compression()},
    "zstd + encryption": lambda: {"codec": encryption(LOG_ID), "is_history_encrypted": True},
    "zstd + encryption of states too": lambda: {
        "codec": encryption(LOG_ID),
        "is_history_encrypted": True,
        "are_states_encrypted": True,
    },
}
"""Its states are JSON for SQL, neither compressed nor encrypted, except with the last."""

STORED: Final = Measure(unit="MiB", durability=NO_DISK)

Reading = Callable[[str], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much."""

    documents: int = 5_000
    document_bytes: int = 2_048
    documents_kind: Kind = "compressible"


async def run(options: Options, plan: Plan) -> Report:
    """Fill each store with the same commits, then read it."""
    refuse_url(options, "it starts the servers that it measures")
    samples = Samples()
    for number in range(1, options.rounds + 1):
        samples.calibrate()
        commits = _commits(plan)
        with TemporaryDirectory(prefix=PREFIX) as name:
            await _round(Path(name), plan, commits, samples)
        await _cached(samples)
        _coded(commits[0], samples)
        options.say(f"round {number} done")
    return Report(
        command="stores",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _round(folder: Path, plan: Plan, commits: list[Commit], samples: Samples) -> None:
    with await open_folder(folder / "data") as opened:
        server = await start_postgres(opened)
        try:
            for number, (layers, options) in enumerate(POSTGRES_LAYERS.items()):
                schema = f"layers_{number}"
                store = await PostgresStore.open(server.dsn, schema=schema, **options())
                await _measure(f"postgres, {layers}", store, plan, commits, samples, "none")
                await store.close()
                size = await _relations_bytes(server.dsn, schema)
                samples.add(f"postgres, {layers}, stored", size / MEBIBYTE, STORED)
            await _copy(server.dsn, plan, samples)
        finally:
            await server.stop()
    sizes: dict[str, float] = {}
    for layers, made in LAYERS.items():
        place = folder / layers
        place.mkdir()
        files = await SqliteStore.open(place, codec=made())
        await _measure(f"files, {layers}", files, plan, commits, samples, "os")
        await files.close()
        sizes[layers] = sum(path.stat().st_size for path in place.iterdir()) / MEBIBYTE
    _note_sizes("files", sizes, samples)
    _raw_sqlite(folder, commits[1], samples)
    for name, binary in (("redis", redis_binary()), ("valkey", valkey_binary())):
        sizes = {}
        for layers, made in LAYERS.items() if binary and binary.exists() else ():
            with running_redis(binary) as running:
                redis = await RedisStore.open(running.url, codec=made())
                await _measure(f"{name}, {layers}", redis, plan, commits, samples, NO_DISK)
                await redis.close()
                with Redis(unix_socket_path=str(running.path)) as bare:
                    sizes[layers] = bare.info("memory")["used_memory_dataset"] / MEBIBYTE
                if layers == "none":
                    _raw_redis(name, running, commits[1], samples)
        _note_sizes(name, sizes, samples)


def _note_sizes(name: str, sizes: dict[str, float], samples: Samples) -> None:
    """Note what each store takes, and how much less that is with its layers."""
    for layers, size in sizes.items():
        samples.add(f"{name}, {layers}, stored", size, STORED)
        if layers != "none":
            saved = Measure(unit="%", durability=NO_DISK, goal=goals.STORE_SAVED)
            samples.add(f"{name}, {layers}, saved", 100 * (1 - size / sizes["none"]), saved)


_RELATIONS_BYTES: Final = """
SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE relkind = 'r' AND nspname = $1
"""


async def _relations_bytes(dsn: str, schema: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(_RELATIONS_BYTES, schema))
    finally:
        await connection.close()


def _commits(plan: Plan) -> list[Commit]:
    """Make the commits: every document, some that change every document, and some of one event."""
    scribe = Scribe(first_checkpoints(LOG_ID))
    workload = Workload(
        documents=plan.documents, document_bytes=plan.document_bytes, kind=plan.documents_kind
    )
    for event in workload.puts():
        scribe.publish(event.document, event.body, namespace=NAMESPACE)
    commits = [scribe.commit()]
    for bulk in range(BULKS):
        for number in range(plan.documents):
            scribe.publish(f"d{number}", {"merge": {"m0": f"changed {bulk}"}}, namespace=NAMESPACE)
        commits.append(scribe.commit())
    for number in range(SINGLES):
        scribe.publish(f"d{number % 100}", {"merge": {"m1": f"changed {number}"}}, namespace=NAMESPACE)
        commits.append(scribe.commit())
    return commits


async def _measure(
    name: str, store: Any, plan: Plan, commits: list[Commit], samples: Samples, durability: Durability
) -> None:
    """Commit everything, then read heads and versions."""
    await store.bind(LOG_ID)
    assert await store.acquire_lease()
    if name.endswith("dictionary"):
        await store.add_dictionary(NAMESPACE, _dictionary(commits[0]))
    written = Measure(unit="events/s", durability=durability)
    read = Measure(unit="reads/s", durability=NO_DISK)
    first, *rest = commits
    await store.commit(first)
    bulks, singles = rest[:BULKS], rest[BULKS:]
    seconds = await _commit_all(store, bulks)
    samples.add(f"{name}, commits of {plan.documents:,}", BULKS * plan.documents / seconds, written)
    seconds = await _commit_all(store, singles)
    samples.add(f"{name}, commits of one event", SINGLES / seconds, written)

    async def head(document: str) -> None:
        assert await store.head(NAMESPACE, document) is not None

    async def version(document: str) -> None:
        found = await store.snapshot_at(NAMESPACE, document, Point(Clock.version, 2))
        assert found.version == 2

    names = [f"d{number}" for number in range(plan.documents)]
    for in_flight in IN_FLIGHT:
        for kind, reading in (("heads", head), ("versions", version)):
            taken = await _read(reading, names, in_flight, READS_EACH)
            samples.add(f"{name}, {kind}, {in_flight} in flight", READS_EACH / taken[1], read)


async def _commit_all(store: Any, commits: list[Commit]) -> float:
    started_at = time.perf_counter()
    for commit in commits:
        await store.commit(commit)
    return time.perf_counter() - started_at


async def _read(reading: Reading, names: list[str], in_flight: int, count: int) -> tuple[list[float], float]:
    """Read documents, by so many readers; return the milliseconds of each read, and the seconds of all."""
    milliseconds: list[float] = []
    remaining = iter(random.Random(1).choices(names, k=count))

    async def reader() -> None:
        for name in remaining:
            started_at = time.perf_counter()
            await reading(name)
            milliseconds.append((time.perf_counter() - started_at) * 1_000)

    started_at = time.perf_counter()
    await asyncio.gather(*(reader() for _ in range(in_flight)))
    return milliseconds, time.perf_counter() - started_at


# --- The bare databases ----------------------------------------------------------------------------------


async def _copy(dsn: str, plan: Plan, samples: Samples) -> None:
    """COPY into a temporary table and one UPDATE from it: documents alone."""
    ended = await work(
        copy_documents,
        dsn=dsn,
        documents=plan.documents,
        document_bytes=plan.document_bytes,
        commits=BULKS,
        kind=plan.documents_kind,
    )
    ground = Measure(unit="documents/s", durability=NO_DISK, is_ground=True)
    samples.add("COPY and UPDATE", ended.value["rows"] / ended.value["seconds"], ground)


def _raw_sqlite(folder: Path, commit: Commit, samples: Samples) -> None:
    """Upsert each document's state and insert its event, in one transaction."""
    rows = [(write.document.document, write.state, write.journal[0].body) for write in commit.documents]
    with sqlite3.connect(folder / "raw.sqlite", isolation_level=None) as raw:
        raw.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
            "CREATE TABLE d (id TEXT PRIMARY KEY, state BLOB); CREATE TABLE j (id TEXT, body BLOB)"
        )
        started_at = time.perf_counter()
        raw.execute("BEGIN IMMEDIATE")
        raw.executemany(
            "INSERT INTO d VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET state = ?2", [r[:2] for r in rows]
        )
        raw.executemany("INSERT INTO j VALUES (?, ?)", [(row[0], row[2]) for row in rows])
        raw.execute("COMMIT")
        seconds = time.perf_counter() - started_at
        ground = Measure(unit="documents/s", durability="os", is_ground=True)
        samples.add("SQLite, documents and events", len(rows) / seconds, ground)
        started_at = time.perf_counter()
        for row in rows:
            raw.execute("SELECT state FROM d WHERE id = ?", row[:1]).fetchone()
        ground = Measure(unit="reads/s", durability=NO_DISK, is_ground=True)
        samples.add("SQLite, reads", len(rows) / (time.perf_counter() - started_at), ground)
    raw.close()


def _raw_redis(name: str, running: RedisServer, commit: Commit, samples: Samples) -> None:
    """Set each document's state and push its event, in one transaction of redis-py; then read one by one."""
    ground = Measure(unit="documents/s", durability=NO_DISK, is_ground=True)
    with Redis(unix_socket_path=str(running.path)) as raw:
        started_at = time.perf_counter()
        pipeline = raw.pipeline(transaction=True)
        for write in commit.documents:
            pipeline.set(f"raw:{write.document.document}", write.state)
            pipeline.rpush(f"raw-events:{write.document.document}", write.journal[0].body)
        pipeline.execute()
        seconds = time.perf_counter() - started_at
        samples.add(f"{name} by redis-py, documents and events", len(commit.documents) / seconds, ground)
        started_at = time.perf_counter()
        for write in commit.documents:
            raw.get(f"raw:{write.document.document}")
        seconds = time.perf_counter() - started_at
        read = Measure(unit="reads/s", durability=NO_DISK, is_ground=True)
        samples.add(f"{name} by redis-py, reads", len(commit.documents) / seconds, read)


# --- The codec -------------------------------------------------------------------------------------------


def _states(commit: Commit) -> list[bytes]:
    return [write.state for write in commit.documents if write.state is not None]


def _dictionary(commit: Commit) -> bytes:
    """Train a dictionary as `refold store train` does."""
    states = _states(commit)
    return train(NAMESPACE, states, len(states), "zstd:1", COMPRESSED_BYTES_MIN).content


def _coded(commit: Commit, samples: Samples) -> None:
    """Encode and decode the states by each codec, without a minimum; the dictionary has not seen all of them."""
    states = _states(commit)
    place = Place("documents.state", NAMESPACE, "d", 0)
    by_dictionary = Compression()
    by_dictionary.dictionaries.add(Dictionary(1, NAMESPACE, _dictionary(commit)))
    codecs = {
        "raw": Compression(Method.none),
        "zstd:1": Compression(bytes_min=0),
        "dictionary": by_dictionary,
    }
    took = Measure(unit="µs", durability=NO_DISK)
    for name, codec in codecs.items():
        started_at = time.perf_counter()
        stored = [codec.encode(place, state) for state in states]
        encoded_at = time.perf_counter()
        assert [codec.decode(place, value) for value in stored] == states
        decoded_at = time.perf_counter()
        share = 100 * sum(map(len, stored)) / sum(map(len, states))
        samples.add(f"codec, {name}, stored", share, Measure(unit="%", durability=NO_DISK))
        samples.add(f"codec, {name}, encode", (encoded_at - started_at) * 1e6 / len(states), took)
        samples.add(f"codec, {name}, decode", (decoded_at - encoded_at) * 1e6 / len(states), took)


# --- The cache -------------------------------------------------------------------------------------------


async def _cached(samples: Samples) -> None:
    """Read 10,000 documents of 10 KB in files through a cache of 10 MB: four fifths of the reads are of a share."""
    with TemporaryDirectory(prefix=PREFIX) as name:
        store = await SqliteStore.open(Path(name))
        scribe = Scribe(await store.bind(LOG_ID))
        assert await store.acquire_lease()
        text = random.Random(1)
        for number in range(CACHED_DOCUMENTS):
            scribe.put(f"d{number}", text.randbytes(CACHED_BYTES // 2).hex(), namespace=NAMESPACE)
            if number % 500 == 499:
                await store.commit(scribe.commit())
                scribe.snapshots.clear()
                scribe.entries.clear()
        await store.close()
        for share in CACHED_SHARES:
            _note_cached((await work(read_cached, folder=name, share=share)).value, share, samples)


async def read_cached(signals: Signals, *, folder: str, share: float) -> dict[str, Any]:
    """Read versions in a process of its own, without a cache and then through one, whose memory is the difference."""
    store = await SqliteStore.open(Path(folder))
    rng = random.Random(2)
    hot = int(CACHED_DOCUMENTS * share)
    chosen = [
        f"d{rng.randrange(hot if rng.random() < HOT_READS else CACHED_DOCUMENTS)}"
        for _ in range(CACHED_READS)
    ]
    await signals.until_go()
    await _read_versions(CachedReader(store, bytes_max=0), chosen)
    gc.collect()
    process, reader = psutil.Process(), CachedReader(store, bytes_max=CACHE_BYTES)
    before = process.memory_info().rss
    milliseconds = await _read_versions(reader, chosen)
    resident = process.memory_info().rss - before
    await store.close()
    return {
        "counts": list(reader.counts),
        "resident": resident,
        "milliseconds": milliseconds[CACHED_READS // 2 :],
    }


def _note_cached(found: dict[str, Any], share: float, samples: Samples) -> None:
    hits, misses, size = found["counts"]
    label = (
        f"cache of {CACHE_BYTES / 1e6:.0f} MB, {HOT_READS:.0%} of the reads of {share:.0%} of the documents"
    )
    share_of_hits = Measure(unit="%", durability=NO_DISK, goal=goals.CACHE_HITS)
    samples.add(f"{label}, hits", 100 * hits / (hits + misses), share_of_hits)
    samples.add(f"{label}, counted", size / 1e6, Measure(unit="MB", durability=NO_DISK))
    resident = Measure(unit="MB", durability=NO_DISK, goal=goals.CACHE_RESIDENT)
    samples.add(f"{label}, resident", found["resident"] / 1e6, resident)
    samples.add_latency(label, found["milliseconds"], Measure(unit="ms", durability=NO_DISK))


async def _read_versions(reader: CachedReader, names: list[str]) -> list[float]:
    milliseconds = [0.0] * len(names)
    for number, name in enumerate(names):
        started_at = time.perf_counter()
        await reader.snapshot_at(NAMESPACE, name, Point(Clock.version, 1))
        milliseconds[number] = (time.perf_counter() - started_at) * 1_000
    return milliseconds
