"""Replay: the projector's own loop from an empty schema to the log's end, in as many processes as a rebuild takes.

Run by `python -m bench`, and by `bench.growth` at several sizes.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bench import goals
from bench.filling import fill
from bench.ground.disk import fsync_milliseconds
from bench.ground.reading import (
    consume_with_nats_py,
    fold_in_memory,
    read_in_bulk,
)
from bench.ground.rows import checkpoint, copy_documents, copy_journal
from bench.internals import commit_events_max, rebuild_processes, rebuild_shards, replay
from bench.processes import Ended, Task, Worker, work
from bench.report import NO_DISK, Measure, Report, Samples, suffix_of
from bench.system import Bare, Options, bare_servers, refuse_url
from bench.usage import ProcessorClock
from refold.bench import machine
from refold.bench.workload import Kind, Workload
from refold.core.errors import RefoldError

CONSUMED_EVENTS_MAX: Final = 100_000
JOURNAL_ROWS_MAX: Final = 200_000
UPDATED_TIMES: Final = 20
MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much, and whether the ground is measured too."""

    events: int = 300_000
    documents: int = 3_000
    document_bytes: int = 2_048
    documents_kind: Kind = "random"
    processes: int = field(default_factory=rebuild_processes)
    has_ground: bool = True
    stale_share: float = 0.0


async def run(options: Options, plan: Plan) -> Report:
    """Fill a log once, then replay it into a fresh schema each round."""
    refuse_url(options, "it replays into schemas of its own and measures its own processes")
    samples = Samples(suffix_of(plan.documents_kind))
    async with bare_servers(options) as bare:
        started_at = time.perf_counter()
        workload = Workload(
            documents=plan.documents,
            document_bytes=plan.document_bytes,
            kind=plan.documents_kind,
            stale_share=plan.stale_share,
        )
        filled = await fill(bare.servers.nats.address, workload.events(plan.events))
        options.say(f"{filled:,} events in the log in {time.perf_counter() - started_at:.1f} s")
        for number in range(1, options.rounds + 1):
            await _replay(bare, plan, options, samples, number)
            if plan.has_ground:
                await _ground(bare, plan, samples)
    return Report(
        command="rebuild",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _replay(bare: Bare, plan: Plan, options: Options, samples: Samples, number: int) -> None:
    schema = f"bench_{number}"
    await checkpoint(bare.servers.postgres.dsn)
    samples.calibrate()
    clock = ProcessorClock(bare.pids)
    ended = await _replay_in_shards(bare, plan, schema)
    used = {"replay": sum(each.cpu_seconds for each in ended), **clock.seconds()}
    applied = sum(each.value["applied"] for each in ended)
    if applied != plan.events + 1:
        raise RefoldError("not every event was applied", events=plan.events + 1, applied=applied)
    rate = plan.events / max(each.value["seconds"] for each in ended)
    options.say(f"round {number}: {rate:,.0f} events/s")
    kept, ground = options.durability, "bulk read alone" if plan.has_ground else ""
    samples.add("rebuild", rate, Measure(unit="events/s", durability=kept, goal=goals.REBUILD, ground=ground))
    peak = sum(each.peak_bytes for each in ended) / MEBIBYTE
    samples.add("rebuild, memory of all its processes at most", peak, Measure(unit="MiB", durability=kept))
    measure = Measure(unit="µs/event", durability=kept, goal=goals.REBUILD_CPU)
    samples.add_cpu("rebuild", used, plan.events, measure)
    await checkpoint(bare.servers.postgres.dsn, dropped_schema=schema)


async def _replay_in_shards(bare: Bare, plan: Plan, schema: str) -> list[Ended]:
    """Start all shards at once, each at its first checkpoint."""
    given = {"url": bare.servers.nats.url("projector"), "dsn": bare.servers.postgres.dsn, "schema": schema}
    async with AsyncExitStack() as endings:
        workers = []
        for partitions in rebuild_shards(plan.processes):
            arguments = {**given, "until_sequence": plan.events + 1, "partitions": partitions}
            workers.append(await endings.enter_async_context(await Worker.start(replay, **arguments)))
        for worker in workers:
            await worker.ready()
        for worker in workers:
            worker.go()
        return [await worker.ended() for worker in workers]


async def _ground(bare: Bare, plan: Plan, samples: Samples) -> None:
    url, dsn = bare.servers.nats.url("administrator"), bare.servers.postgres.dsn
    last = plan.events + 1
    commit_events = commit_events_max()
    some = min(last, CONSUMED_EVENTS_MAX)
    rows = min(plan.events, JOURNAL_ROWS_MAX)
    kind = plan.documents_kind
    shape = {"documents": plan.documents, "document_bytes": plan.document_bytes, "kind": kind}
    tasks: list[tuple[str, str, Task, dict[str, Any]]] = [
        ("bulk read alone", "events", read_in_bulk, {"url": url, "until_sequence": last}),
        ("fold alone", "events", fold_in_memory, {"url": url, "until_sequence": last}),
        ("nats-py consume", "events", consume_with_nats_py, {"url": url, "until_sequence": some}),
        (
            "COPY of journal rows",
            "rows",
            copy_journal,
            {"dsn": dsn, "events": rows, "commit_events": commit_events, "kind": kind},
        ),
        (
            "COPY + UPDATE of documents",
            "rows",
            copy_documents,
            {"dsn": dsn, "commits": UPDATED_TIMES, **shape},
        ),
    ]
    for name, counted, task, given in tasks:
        ended = await work(task, **given)
        # Like the projector's, these commits do not wait for the disk.
        measure = Measure(
            unit=f"{counted}/s", durability="os" if counted == "rows" else NO_DISK, is_ground=True
        )
        samples.add(name, _rate(ended, counted), measure)
    synced = Measure(unit="ms", durability="fsync", is_ground=True)
    samples.add_latency("one fsync", fsync_milliseconds(bare.folder), synced)


def _rate(ended: Ended, counted: str) -> float:
    return float(ended.value[counted] / ended.value["seconds"])
