"""Folds one log into memory, PostgreSQL, files and Redis, and compares everything that the stores answer.

A command of its own: `PYTHONPATH=tests python tests/acceptance/same_log.py [--events N]`.
The log is in JetStream: stale authors, settings, transactions, duplicates, rejections and deletions. Each store
is filled by a live projector's loop with its own bounds, which is started again in the middle.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from refold.audit.stores import Listener, Side, compare_stores
from refold.bench.workload import NAMESPACE, Workload
from refold.core import json_text
from refold.core.errors import HistoryElsewhere
from refold.core.history import Clock, Entry, Point, Snapshot
from refold.core.stream import SYSTEM_NAMESPACE
from refold.history.replayed import Replayed
from refold.log import EventLog, Publication
from refold.projector.loop import LoopLimits
from refold.store import Rejection
from refold.store.memory import MemoryStore
from refold.store.postgres import PostgresStore
from refold.store.redis import RedisStore
from refold.store.sqlite import SqliteStore
from support.broker import Broker, running_broker
from support.projection import ports, projecting
from support.redis_servers import redis_binary, running_redis, valkey_binary
from support.servers import running_postgres

EVENTS = 100_000
EVENTS_EACH = 250
"""Events of a document, on average: some have only what a store of recent depth keeps, most have more."""

BATCH = 200
ACCOUNTS = 20
NOTES = 40
STRATEGIES = ("merge", "reject", "first_write_wins", "last_write_wins")
REPLAYED = 2_000
READ_AT_ONCE = 16
FOLD_SECONDS_MAX = 1_200
REJECTIONS_READ = 500
SHOWN_MAX = 20
KINDS = ("memory", "postgres", "files", "redis")

BOUNDS = {
    "memory": LoopLimits(cache_bytes_max=1 << 28, pending_events_max=5_000, pending_bytes_max=1 << 25),
    "postgres": LoopLimits(cache_bytes_max=1 << 20, pending_events_max=2_000, pending_bytes_max=1 << 22),
    "files": LoopLimits(cache_bytes_max=1 << 22, pending_events_max=700, pending_bytes_max=1 << 20),
    "redis": LoopLimits(cache_bytes_max=1 << 21, pending_events_max=1_500, pending_bytes_max=1 << 20),
}


class Log:
    """Publications by a seed, and what was sent more than once."""

    def __init__(self, events: int, seed: int = 1) -> None:
        self._random = random.Random(seed)
        documents = max(8, events // EVENTS_EACH)
        self._workload = Workload(documents=documents, document_bytes=600, seed=seed, stale_share=0.3)
        self._events = events
        self._sent: dict[str, list[dict[str, Any]]] = {}
        self.repeated: set[tuple[str, str]] = set()

    def batches(self) -> Iterator[list[Publication]]:
        """Yield what is appended at once: a transaction, or events that have nothing to do with each other."""
        batch: list[Publication] = []
        for number, event in enumerate(self._workload.events(self._events)):
            fields = json_text.loads(event.body) | {"id": f"e{number}"}
            if "base" in fields and self._random.random() < 0.4:
                fields["on_conflict"] = self._random.choice(STRATEGIES)
            self._sent.setdefault(event.document, []).append(fields)
            batch.append(published(event.document, fields))
            batch += self._others(event.document, number)
            if number % 100 == 99:
                yield batch
                batch = []
                yield self._transaction(number)
            elif len(batch) >= BATCH:
                yield batch
                batch = []
        yield batch

    def _others(self, document: str, number: int) -> Iterator[Publication]:
        """Yield what follows an event now and then."""
        chosen = self._random.random()
        if chosen < 0.05:
            again = self._random.choice(self._sent[document][-40:])
            self.repeated.add((document, again["id"]))
            yield published(document, again)
        elif chosen < 0.07:
            refused = {"patch": [{"op": "remove", "path": "/nowhere"}], "id": f"r{number}"}
            yield published(document, self._random.choice([refused, {"put": 1, "base": 10**6}, b"garbage"]))
        elif chosen < 0.10:
            note = f"note-{self._random.randrange(NOTES)}"
            yield published(note, self._random.choice([{"put": {"n": number}}, {"delete": True}]))
        elif chosen < 0.101:
            settings = {"put": {"on_conflict": self._random.choice(STRATEGIES)}}
            body = json_text.dumps(settings)
            yield Publication(namespace=SYSTEM_NAMESPACE, document=f"settings:{NAMESPACE}", body=body)

    def _transaction(self, number: int) -> list[Publication]:
        """Return a transaction of three accounts; now and then one whose last member is missing."""
        accounts = self._random.sample(range(ACCOUNTS), 3)
        members = [
            published(
                f"account-{account}",
                {"merge": {"n": number}, "txn": {"id": f"t{number}", "index": at, "count": len(accounts)}},
            )
            for at, account in enumerate(accounts)
        ]
        return members if self._random.random() < 0.9 else members[:-1]


def published(document: str, event: dict[str, Any] | bytes) -> Publication:
    body = event if isinstance(event, bytes) else json_text.dumps(event)
    return Publication(namespace=NAMESPACE, document=document, body=body)


async def write(log: EventLog, made: Log) -> int:
    """Append everything; return the last sequence."""
    for batch in made.batches():
        appended = await log.append_atomically(batch)
        assert isinstance(appended, list), appended
    return (await log.info()).last_sequence


async def fold(log: EventLog, kind: str, store: Any, end: int) -> None:
    """Fold the log by the loop of a live projector, which is started again in the middle."""
    for until in (end // 2, end):
        async with projecting(ports(log, store), BOUNDS[kind]) as running:
            await running.committed(until, FOLD_SECONDS_MAX)


@asynccontextmanager
async def opened_stores(folder: Path, postgres_dsn: str, redis_url: str) -> AsyncIterator[dict[str, Any]]:
    """Open one of each kind."""
    async with AsyncExitStack() as stack:
        stores = {
            "memory": MemoryStore(),
            "postgres": await PostgresStore.open(postgres_dsn, readers_max=4),
            "files": await SqliteStore.open(folder),
            "redis": await RedisStore.open(redis_url),
        }
        for kind in KINDS[1:]:
            stack.push_async_callback(stores[kind].close)
        yield stores


class Compared(NamedTuple):
    """What was compared of one store; `differences` are for people."""

    counts: Counter[str]
    differences: list[str]


class Truth:
    """What the store in memory has: every entry, and every version's snapshot."""

    def __init__(self, store: MemoryStore, made: Log) -> None:
        self.store = store
        self.repeated = sorted(made.repeated)
        self.entries: dict[str, list[Entry]] = {}

    async def read(self) -> None:
        names = await self.store.list_names(NAMESPACE, prefix="", limit=10_000, cursor=None)
        assert names.cursor is None
        for name in names.names:
            segments = self.store.segments(NAMESPACE, name.document, after_version=None, is_descending=False)
            async with aclosing(segments):
                found = [segment.entries async for segment in segments]
            self.entries[name.document] = list(chain.from_iterable(found))

    def versions(self) -> Iterator[tuple[str, int]]:
        """Yield every version of every document."""
        for document, entries in self.entries.items():
            yield from ((document, version) for version in range(1, entries[-1].version + 1))


async def compare(truth: Truth, kind: str, store: Any) -> Compared:
    """Compare a store with that in memory: as `refold store compare` does, then by each method that people use."""
    found = Compared(Counter(), [])
    listener = Listener(lambda it: found.differences.append(f"{kind}: {it}"), lambda _: None)
    compared = await compare_stores(Side("memory", truth.store), Side(kind, store), listener)
    assert compared.has_counts
    found.counts.update(heads=compared.documents, entries=compared.entries, bases=compared.snapshots)
    found.counts.update({"entries not kept": compared.not_kept})
    await compare_versions(truth, kind, store, found)
    await compare_repeated(truth, kind, store, found)
    await compare_rejections(truth, kind, store, found)
    return found


async def compare_versions(truth: Truth, kind: str, store: Any, found: Compared) -> None:
    """Read every version through both stores."""
    remaining = truth.versions()

    async def reader() -> None:
        for document, version in remaining:
            try:
                read = await snapshot(store, document, version)
            except HistoryElsewhere:
                found.counts["versions not kept"] += 1
                continue
            found.counts["versions"] += 1
            if read != await snapshot(truth.store, document, version):
                found.differences.append(f"{kind}: {document} version {version}")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(READ_AT_ONCE):
            tasks.create_task(reader())


async def snapshot(store: Any, document: str, version: int) -> Snapshot | None:
    found: Snapshot | None = await store.snapshot_at(NAMESPACE, document, Point(Clock.version, version))
    return found


async def compare_repeated(truth: Truth, kind: str, store: Any, found: Compared) -> None:
    """Find the first event of every id that was sent again; a store of recent depth may know only its sequence."""
    for document, event_id in truth.repeated:
        expected = await truth.store.find_id(NAMESPACE, document, event_id)
        found.counts["duplicates"] += 1
        try:
            is_equal = await store.find_id(NAMESPACE, document, event_id) == expected
        except HistoryElsewhere as error:
            found.counts["duplicates by sequence"] += 1
            is_equal = expected is not None and error.facts["sequence"] == expected.sequence
        if not is_equal:
            found.differences.append(f"{kind}: {document} id {event_id}")


async def compare_rejections(truth: Truth, kind: str, store: Any, found: Compared) -> None:
    """Read the rejections of everything and of each document, newest first."""
    for document in (None, *truth.entries):
        before = None
        while True:
            asked = {"limit": REJECTIONS_READ, "before_sequence": before}
            expected = await truth.store.rejections(NAMESPACE, document, **asked)
            try:
                read: list[Rejection] = await store.rejections(NAMESPACE, document, **asked)
            except HistoryElsewhere:
                found.counts["rejections not kept"] += len(expected)
                break
            found.counts["rejections"] += len(read)
            if read != expected:
                found.differences.append(f"{kind}: rejections of {document or 'all'} before {before}")
            if len(expected) < REJECTIONS_READ:
                break
            before = expected[-1].sequence


async def compare_replayed(truth: Truth, log: EventLog, stores: dict[str, Any], count: int) -> Compared:
    """Read versions that Redis does not keep through the log, and compare them with those of PostgreSQL."""
    found = Compared(Counter(), [])
    older = []
    for document, version in truth.versions():
        try:
            await snapshot(stores["redis"], document, version)
        except HistoryElsewhere:
            older.append((document, version))
    replayed = Replayed(log, stores["redis"])
    for document, version in sorted(random.Random(2).sample(older, min(count, len(older)))):
        found.counts["replayed"] += 1
        read = await snapshot(replayed, document, version)
        if read is None or read != await snapshot(stores["postgres"], document, version):
            found.differences.append(f"redis, replayed: {document} version {version}")
    return found


async def run(folder: Path, postgres_dsn: str, redis_url: str, events: int, replayed: int) -> Compared:
    """Start a broker; write a log, fold it into each store, and compare them. Prints counts and seconds."""
    async with running_broker(folder / "broker") as broker:
        return await run_on(broker, folder / "files", postgres_dsn, redis_url, events, replayed)


async def run_on(
    broker: Broker, folder: Path, postgres_dsn: str, redis_url: str, events: int, replayed: int
) -> Compared:
    await broker.make_log()
    writer, log = await broker.open_log(), await broker.open_log("projector")
    made, total = Log(events), Compared(Counter(), [])
    seconds = stopwatch()
    end = await write(writer, made)
    print(f"{end:,} events written in {seconds():.1f} s, {len(made.repeated):,} ids more than once")
    async with opened_stores(folder, postgres_dsn, redis_url) as stores:
        for kind in KINDS:
            seconds = stopwatch()
            await fold(log, kind, stores[kind], end)
            print(f"{kind}: folded in {seconds():.1f} s")
        truth = Truth(stores["memory"], made)
        await truth.read()
        kinds = Counter(entry.status.name for entries in truth.entries.values() for entry in entries)
        print(f"{len(truth.entries):,} documents; {shown(kinds)}")
        for kind in KINDS[1:]:
            seconds = stopwatch()
            found = await compare(truth, kind, stores[kind])
            print(f"{kind}: {shown(found.counts)}: {len(found.differences)} differences, {seconds():.1f} s")
            total.counts.update({f"{kind} {name}": number for name, number in found.counts.items()})
            total.differences.extend(found.differences)
        seconds = stopwatch()
        found = await compare_replayed(truth, log, stores, replayed)
        print(
            f"redis: {shown(found.counts)} from the log: {len(found.differences)} differences, {seconds():.1f} s"
        )
        total.counts.update(found.counts)
        total.differences.extend(found.differences)
    return total


def stopwatch() -> Callable[[], float]:
    """Return a function that says how long ago this was."""
    started_at = time.perf_counter()
    return lambda: time.perf_counter() - started_at


def shown(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)


def main() -> int:
    """Start the servers, compare; 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--replayed", type=int, default=REPLAYED, help="older versions read through the log")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "files").mkdir()
        with (
            running_postgres(folder / "postgres") as postgres,
            running_redis(redis_binary() or valkey_binary()) as redis,
        ):
            found = asyncio.run(run(folder, postgres.dsn, redis.url, given.events, given.replayed))
    for what in found.differences[:SHOWN_MAX]:
        print(f"differs: {what}")
    print(f"{len(found.differences)} differences")
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
