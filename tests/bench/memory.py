"""What a million documents cost: the projector's memory under its bound, the database, the broker and its restart.

Run by `python -m bench`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import asdict, dataclass
from typing import Final

import psutil

from bench import goals
from bench.filling import fill, fold_all
from bench.ground.rows import SQL, connect
from bench.report import NO_DISK, Measure, Report, Samples
from bench.system import Options, Whole, refuse_url, whole_system
from bench.usage import ProcessorClock, peak_bytes
from refold.bench import machine
from refold.bench.workload import Workload
from refold.core.errors import ChildFailed, RefoldError, TimedOut
from refold.wiring.servers import open_log

CHANGED_SHARE: Final = 0.1
LATER_EVENTS: Final = 1_000
RESTART_SECONDS: Final = 300
LOOK_SECONDS: Final = 0.01
MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much."""

    documents: int = 1_000_000
    document_bytes: int = 512
    cache_bytes_max: int = 256 * MEBIBYTE


async def run(options: Options, plan: Plan) -> Report:
    """In each round, make the documents in a new system, change some, restart the broker and continue."""
    refuse_url(options, "it fills a system of its own and starts its broker again")
    samples = Samples()
    for number in range(1, options.rounds + 1):
        async with whole_system(options, cache_bytes_max=plan.cache_bytes_max) as system:
            await _round(system, plan, options, samples)
            options.say(f"round {number} done")
    return Report(
        command="memory",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _round(system: Whole, plan: Plan, options: Options, samples: Samples) -> None:
    workload = Workload(documents=plan.documents, document_bytes=plan.document_bytes)
    started_at = time.perf_counter()
    samples.calibrate()
    clock = ProcessorClock(system.pids)
    await fill(system.nats, workload.puts())
    options.say(f"{plan.documents:,} documents in the log in {time.perf_counter() - started_at:.0f} s")
    await fold_all(system)
    made = Measure(unit="documents/s", durability=options.durability)
    samples.add("documents made and folded", plan.documents / (time.perf_counter() - started_at), made)
    each = Measure(unit="µs/event", durability=options.durability)
    samples.add_cpu("documents made and folded", clock.seconds(), plan.documents, each)
    # What is changed now is mostly no longer in memory.
    await fill(system.nats, workload.events(max(1, int(plan.documents * CHANGED_SHARE))))
    await fold_all(system)
    await _note_sizes(system, samples)
    seconds = await _restart_nats(system)
    again = Measure(unit="s", durability=options.durability)
    samples.add("NATS, from its start to its first answer", seconds, again)
    memory = psutil.Process(system.pid("nats")).memory_info().rss / MEBIBYTE
    samples.add("NATS, memory after its start", memory, Measure(unit="MiB", durability=NO_DISK))
    await _go_on(system, workload)


async def _note_sizes(system: Whole, samples: Samples) -> None:
    connection = await connect(system.reached.required("postgres_url"))
    try:
        database = int(await connection.fetchval(SQL["database_bytes"]))
    finally:
        await connection.close()
    stored = sum(path.stat().st_size for path in (system.folder / "nats").rglob("*") if path.is_file())
    measure = Measure(unit="MiB", durability=NO_DISK)
    peak = peak_bytes(system.pid("projector")) / MEBIBYTE
    samples.add("projector, memory at most", peak, Measure(unit="MiB", durability=NO_DISK, goal=goals.MEMORY))
    samples.add("NATS, memory at most", peak_bytes(system.pid("nats")) / MEBIBYTE, measure)
    samples.add("NATS, files", stored / MEBIBYTE, measure)
    samples.add("PostgreSQL, database", database / MEBIBYTE, measure)


async def _restart_nats(system: Whole) -> float:
    """End the broker cleanly, so that the supervisor restarts it; return how long its start took."""
    former = system.pid("nats")
    os.kill(former, signal.SIGINT)
    try:
        async with asyncio.timeout(RESTART_SECONDS):
            began = await _began_after(system, former)
            log = await open_log(system.reached.required("nats_url"), "refold-bench-restart")
            await log.close()
            return time.time() - began
    except TimeoutError as error:
        raise TimedOut("the broker did not come back", seconds=RESTART_SECONDS) from error


async def _began_after(system: Whole, former: int) -> float:
    """Wait for the broker's next process; return when it started."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            pid = system.pid("nats")
            if pid != former:
                return psutil.Process(pid).create_time()
        except (ChildFailed, psutil.NoSuchProcess):
            continue


async def _go_on(system: Whole, workload: Workload) -> None:
    """Append more events and check that they are folded."""
    before = await fold_all(system)
    appended = await fill(system.nats, workload.events(LATER_EVENTS))
    after = await fold_all(system)
    if after - before != appended:
        raise RefoldError("the projector did not go on", before=before, after=after, appended=appended)
