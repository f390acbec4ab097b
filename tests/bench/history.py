"""A real history imported through the gateway: events/s, processor time, and the storage that a change costs.

Run by `python -m bench`. What was imported is proven by tests/acceptance/read_back.py.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.filling import fold_all
from bench.ground.rows import SQL, checkpoint, connect
from bench.report import NO_DISK, Measure, Report, Samples
from bench.system import Options, Whole, refuse_url, whole_system
from bench.usage import ProcessorClock, peak_bytes
from refold.bench import machine
from refold.client import Refold
from refold.core.errors import Refused
from refold.transfer.importer import ImportListener, import_file

HISTORY: Final = Path(__file__).parents[3] / "shared" / "data" / "eol-history.jsonl.zst"
"""The history of endoflife-date/release-data, beside the checkout."""

NAMESPACE: Final = "history"
MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which file: of what `refold import` takes."""

    path: str = str(HISTORY)


async def run(options: Options, plan: Plan) -> Report:
    """Import the file into a new system each round; then measure what it stores."""
    refuse_url(options, "it measures the files and tables of a system of its own")
    if not Path(plan.path).is_file():  # noqa: ASYNC240 - nothing else waits.
        raise Refused("bad_usage", "there is no such file", field="--path", shape=plan.path)
    samples = Samples()
    for number in range(1, options.rounds + 1):
        async with whole_system(options) as system:
            samples.calibrate()
            changes = await _import(system, Path(plan.path), options, samples)
            await _storage(system, changes, samples)
            options.say(f"round {number}: {changes:,} changes")
    return Report(
        command="history",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _import(system: Whole, path: Path, options: Options, samples: Samples) -> int:
    listener = ImportListener(refused=lambda *_: None, progress=lambda _: None, waiting=lambda _: None)
    clock, begun, own = ProcessorClock(system.pids), time.perf_counter(), time.process_time()
    async with Refold(system.http) as refold:
        tally = await import_file(refold, NAMESPACE, path, listener)
    seconds, own = time.perf_counter() - begun, time.process_time() - own
    await fold_all(system)
    kept = options.durability
    samples.add("import of a history", tally.events / seconds, Measure(unit="events/s", durability=kept))
    each = Measure(unit="µs/event", durability=kept)
    samples.add_cpu("import of a history", clock.seconds(), tally.events, each, client=("importer", own))
    for name, pid in system.pids:
        peak = Measure(unit="MiB", durability=NO_DISK)
        samples.add(f"import of a history, memory of {name} at most", peak_bytes(pid) / MEBIBYTE, peak)
    return tally.events


async def _storage(system: Whole, changes: int, samples: Samples) -> None:
    """Measure the tables with their indexes (those of more than a percent) and the log's files, after a checkpoint."""
    settings, each = system.reached, Measure(unit="B/change", durability=NO_DISK)
    dsn = settings.required("postgres_url")
    await checkpoint(dsn)
    connection = await connect(dsn)
    try:
        tables = dict(await connection.fetch(SQL["table_bytes"], settings.postgres_schema))
    finally:
        await connection.close()
    for table, size in sorted(tables.items()):
        if size * 100 > sum(tables.values()):
            samples.add(f"storage, table {table}", size / changes, each)
    samples.add("storage, all tables", sum(tables.values()) / changes, each)
    stored = sum(path.stat().st_size for path in (system.folder / "nats").rglob("*") if path.is_file())
    samples.add("storage, NATS", stored / changes, each)
