"""The figures that a release notes: import, fold, time travel and latency, on a system of its own.

A command of its own, never a test: `PYTHONPATH=tests python tests/bench/measure.py [HISTORY]`. Durability is fsync.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from refold.client import Refold
from refold.client.importing import Listener, import_file
from refold.embedded.system import start_servers
from refold.log import Publication
from refold.store.postgres import PostgresStore
from refold.wiring.log import make_log, open_log
from refold.wiring.settings import load
from refold.wiring.system import running_system
from support.projection import ports, projecting

VERSIONS = 5_000
READS = 2_000
WRITES = 1_000
EVENTS = 100_000
DOCUMENTS = 3_000
BATCH = 1_000


async def main(history: Path | None) -> None:
    """Start a system, measure, print a line a figure."""
    with TemporaryDirectory(prefix="refold-measure-") as folder:
        settings = load(data=Path(folder), http="127.0.0.1:0", nats_port=0)
        begun = time.perf_counter()
        async with running_system(settings, lambda _: None) as system, Refold(system.http) as refold:
            say("start", f"{time.perf_counter() - begun:.2f} s to ready, durability fsync")
            if history is not None:
                await measure_import(refold, history)
            await measure_travel(refold)
            await measure_writes(refold)
    await measure_fold()


async def measure_fold() -> None:
    """Append small events over many documents, then fold the whole log into an empty Postgres."""
    with TemporaryDirectory(prefix="refold-measure-") as folder:
        async with await start_servers(Path(folder)) as servers:
            await make_log(servers.nats.url("administrator"))
            log = await open_log(servers.nats.url("projector"), "measure-read")
            author = await open_log(servers.nats.url("gateway"), "measure-append")
            store = await PostgresStore.open(servers.postgres.dsn)
            begun = time.perf_counter()
            for batch in _small_events():
                await author.append_atomically(batch)
            seconds = time.perf_counter() - begun
            say("append", f"{EVENTS:,} events in batches of {BATCH:,}, synced: {EVENTS / seconds:,.0f}/s")
            begun = time.perf_counter()
            async with projecting(ports(log, store)) as running:
                await running.committed(EVENTS + 1, deadline_seconds=600)
            seconds = time.perf_counter() - begun
            say(
                "fold",
                f"{EVENTS:,} events over {DOCUMENTS:,} documents into Postgres: {EVENTS / seconds:,.0f}/s",
            )
            for port in (store, author, log):
                await port.close()


def _small_events() -> Iterator[list[Publication]]:
    for first in range(0, EVENTS, BATCH):
        yield [
            Publication(
                namespace="bench",
                document=f"d{at % DOCUMENTS}",
                body=b'{"patch":[{"op":"add","path":"/member-%d","value":%d}]}' % (at % 40, at),
            )
            for at in range(first, first + BATCH)
        ]


async def measure_import(refold: Refold, history: Path) -> None:
    """Import a history through the gateway; peak memory of every process of ours, sampled."""
    listener = Listener(refused=lambda *_: None, progress=lambda _: None, waiting=lambda _: None)
    begun, cpu = time.perf_counter(), time.process_time()
    peaks = asyncio.create_task(sample_memory())
    tally = await import_file(refold, "eol", history, listener)
    seconds, own = time.perf_counter() - begun, time.process_time() - cpu
    peaks.cancel()
    say(
        "import",
        f"{tally.events:,} events of {tally.lines:,} lines in {seconds:.1f} s = {tally.events / seconds:,.0f}/s",
    )
    say("import", f"of it {own:.1f} s of this process's processor: reading lines and making patches")
    for name, peak in PEAKS.items():
        say("memory", f"{name} at most {peak / 2**20:.0f} MiB while importing")


PEAKS: dict[str, int] = {}


async def sample_memory() -> None:
    """Note the largest resident size of projector and gateway, ten times a second."""
    children = {
        child.cmdline()[-2]: child
        for child in psutil.Process().children()
        if "refold.wiring.attached" in child.cmdline()
    }
    while True:
        for name, child in children.items():
            PEAKS[name] = max(PEAKS.get(name, 0), child.memory_info().rss)
        await asyncio.sleep(0.1)


async def measure_travel(refold: Refold) -> None:
    """Read versions of one document of 5,000, scattered, one after another."""
    events = [{"doc": "long", "put": {f"member-{at}": at for at in range(100)}}]
    for version in range(1, VERSIONS):
        value = {"op": "replace", "path": f"/member-{version % 100}", "value": version}
        events.append({"doc": "long", "patch": [value]})
    begun = time.perf_counter()
    outcomes = await refold.append("bench", events)
    seconds = time.perf_counter() - begun
    assert outcomes[-1].version == VERSIONS
    say("bulk", f"{VERSIONS:,} small events in one request, folded: {VERSIONS / seconds:,.0f}/s")
    versions = [1 + at * 7_919 % VERSIONS for at in range(READS)]
    await note("read by version", versions, lambda version: refold.get("bench", "long", version=version))
    await note("read the head", versions, lambda _: refold.get("bench", "long"))


async def measure_writes(refold: Refold) -> None:
    """Publish one after another over HTTP, each waiting for its outcome: one synced append, one fold, one commit."""
    numbers = list(range(WRITES))
    await note(
        "publish → outcome", numbers, lambda number: refold.merge("bench", f"d{number % 50}", {"n": number})
    )


async def note(name: str, items: list[int], ask: Callable[[int], Awaitable[object]]) -> None:
    """Ask for each item in turn; print the median and the 99th percentile."""
    taken = []
    for item in items:
        begun = time.perf_counter()
        await ask(item)
        taken.append((time.perf_counter() - begun) * 1_000)
    taken.sort()
    middle, high = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
    say(name, f"p50 {middle:.2f} ms, p99 {high:.2f} ms over HTTP, {len(items):,} one after another")


def say(name: str, figure: str) -> None:
    """Print a figure."""
    print(f"{name:<18} {figure}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
