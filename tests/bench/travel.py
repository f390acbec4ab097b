"""States at random versions and times of random documents, while the log grows under them; each one is checked.

Run by `python -m bench`, and by `bench.growth`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from bench import goals
from bench.filling import fill, fill_over_http, fold_all
from bench.ground.reading import get_by_sequence
from bench.ground.selecting import select_states
from bench.http_load import read_each
from bench.internals import read_changes, read_store
from bench.processes import work, work_beside
from bench.report import NO_DISK, Goal, Measure, Report, Samples, suffix_of
from bench.system import Options, Whole, whole_system
from refold.bench import machine
from refold.bench.workload import NAMESPACE, Kind, Workload
from refold.core.errors import RefoldError

AXIS: Final = "events in the log"
IN_FLIGHT: Final = (1, 8)
GOT_EVENTS: Final = 300
SELECT_SECONDS: Final = 1.0
CHANGES: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much; the log grows from size to size."""

    sizes: tuple[int, ...] = (100_000, 1_000_000, 5_000_000)
    reads: int = 4_000
    documents: int = 3_000
    document_bytes: int = 2_048
    documents_kind: Kind = "random"
    has_ground: bool = True


class Pick(NamedTuple):
    """A document and one of its versions."""

    document: str
    version: int


async def run(options: Options, plan: Plan) -> Report:
    """Grow the log, and at each size read in every way each round; a running system is read over HTTP alone."""
    samples = Samples(suffix_of(plan.documents_kind))
    if options.url is not None:
        workload = _workload(plan, f"t{time.time_ns()}-")
        for grown, size in zip((0, *plan.sizes), plan.sizes, strict=False):
            await fill_over_http(options.url, workload.events(size - grown))
            await _rounds(_Place(options.url, None, size, has_ground=False), workload, plan, options, samples)
    else:
        async with whole_system(options) as system:
            workload = _workload(plan, "d")
            for grown, size in zip((0, *plan.sizes), plan.sizes, strict=False):
                await fill(system.nats, workload.events(size - grown))
                await fold_all(system)
                options.say(f"{size:,} events folded")
                await _rounds(
                    _Place(system.http, system, size, plan.has_ground), workload, plan, options, samples
                )
    return Report(
        command="travel",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


class _Place(NamedTuple):
    """The target of reads, its log's length, and whether its baseline can be measured."""

    url: str
    system: Whole | None
    size: int
    has_ground: bool


async def _rounds(place: _Place, workload: Workload, plan: Plan, options: Options, samples: Samples) -> None:
    for number in range(1, options.rounds + 1):
        samples.calibrate()
        for in_flight in IN_FLIGHT:
            picks = _picks(workload, plan.reads, seed=number * 100 + in_flight)
            times = await _versions(place, picks, in_flight, samples)
            await _times(place, picks, times, in_flight, samples)
        if place.system is not None:
            picks = _picks(workload, plan.reads, seed=number)
            await _straight(place, place.system, picks, samples)
            await _changes(place, place.system, samples)
            if place.has_ground:
                await _ground(place, place.system, picks, samples)
        options.say(f"{place.size:,} events, round {number} done")


async def _versions(place: _Place, picks: Sequence[Pick], in_flight: int, samples: Samples) -> list[str]:
    """Read versions over HTTP; return when each was recorded."""
    paths = [f"/v1/{NAMESPACE}/{pick.document}?version={pick.version}" for pick in picks]
    pids = place.system.pids if place.system else ()
    ended, used = await work_beside(pids, read_each, url=place.url, paths=paths, in_flight=in_flight)
    for pick, answer in zip(picks, ended.value["answers"], strict=True):
        if (answer["version"], answer["counter"]) != (pick.version, pick.version):
            raise RefoldError("not the version that was asked for", pick=pick, answer=answer)
    name = f"version over HTTP, {in_flight} in flight"
    rate_goal = goals.VERSIONS if in_flight > 1 else None
    _note(place, name, ended.value, samples, goals.TRAVEL if in_flight == 1 else None, rate_goal)
    measure = Measure(unit="µs/read", durability=NO_DISK)
    client = ("load client", ended.cpu_seconds)
    samples.add_cpu(name, used, len(paths), measure, client=client, axis=AXIS, at=place.size)
    return [answer["recorded_at"] for answer in ended.value["answers"]]


async def _times(
    place: _Place, picks: Sequence[Pick], times: Sequence[str], in_flight: int, samples: Samples
) -> None:
    paths = [f"/v1/{NAMESPACE}/{pick.document}?at={at}" for pick, at in zip(picks, times, strict=True)]
    ended = await work(read_each, url=place.url, paths=paths, in_flight=in_flight)
    for pick, at, answer in zip(picks, times, ended.value["answers"], strict=True):
        # Of versions recorded in the same moment the last one counts.
        is_it = answer["counter"] == answer["version"] >= pick.version and answer["recorded_at"] == at
        if not is_it:
            raise RefoldError("not the state of that time", pick=pick, at=at, answer=answer)
    name = f"time over HTTP, {in_flight} in flight"
    _note(place, name, ended.value, samples, goals.TRAVEL if in_flight == 1 else None)


async def _straight(place: _Place, system: Whole, picks: Sequence[Pick], samples: Samples) -> None:
    settings = system.reached
    dsn, schema = settings.required("postgres_url"), settings.postgres_schema
    ended = await work(read_store, dsn=dsn, schema=schema, picks=[[*pick] for pick in picks])
    for pick, counter in zip(picks, ended.value["counters"], strict=True):
        if counter != pick.version:
            raise RefoldError("not the version that was asked for", pick=pick, counter=counter)
    _note(place, "version straight from the store", ended.value, samples, goals.TRAVEL)


async def _changes(place: _Place, system: Whole, samples: Samples) -> None:
    """Read the changes of the namespace from the middle of the log on."""
    settings, after = system.reached, place.size // 2
    ended = await work(
        read_changes,
        url=settings.required("nats_url"),
        dsn=settings.required("postgres_url"),
        schema=settings.postgres_schema,
        after=after,
        until=min(place.size, after + CHANGES),
    )
    rate = ended.value["changes"] / ended.value["seconds"]
    measure = Measure(unit="changes/s", durability=NO_DISK)
    samples.add("changes of the namespace, in order", rate, measure, axis=AXIS, at=place.size)


async def _ground(place: _Place, system: Whole, picks: Sequence[Pick], samples: Samples) -> None:
    settings = system.reached
    selected = await work(
        select_states,
        dsn=settings.required("postgres_url"),
        kind="row",
        documents=[pick.document for pick in picks],
        connections=1,
        seconds=SELECT_SECONDS,
    )
    chosen = random.Random(place.size)
    sequences = [chosen.randrange(2, place.size) for _ in range(GOT_EVENTS)]
    got = await work(get_by_sequence, url=settings.required("nats_url"), sequences=sequences)
    measure = Measure(unit="ms", durability=NO_DISK, is_ground=True)
    for name, ended in (("plain SELECT of the row", selected), ("one event from JetStream", got)):
        samples.add_latency(name, ended.value["milliseconds"], measure, axis=AXIS, at=place.size)


def _note(
    place: _Place,
    name: str,
    value: dict[str, Any],
    samples: Samples,
    bounds: dict[str, Goal] | None,
    rate_goal: Goal | None = None,
) -> None:
    rate = len(value["milliseconds"]) / value["seconds"]
    ground = "plain SELECT of the row" if place.has_ground else ""
    median = ground and f"{ground}, p50"
    measure = Measure(unit="reads/s", durability=NO_DISK, goal=rate_goal, ground=median)
    samples.add(name, rate, measure, axis=AXIS, at=place.size)
    waited = Measure(unit="ms", durability=NO_DISK, ground=ground)
    samples.add_latency(name, value["milliseconds"], waited, bounds, axis=AXIS, at=place.size)


def _workload(plan: Plan, prefix: str) -> Workload:
    return Workload(
        documents=plan.documents,
        document_bytes=plan.document_bytes,
        is_counted=True,
        prefix=prefix,
        kind=plan.documents_kind,
    )


def _picks(workload: Workload, count: int, *, seed: int) -> list[Pick]:
    chosen = random.Random(seed)
    picks: list[Pick] = []
    while len(picks) < count:
        document = chosen.randrange(workload.documents)
        if head := workload.version(document):
            picks.append(Pick(workload.name(document), chosen.randint(1, head)))
    return picks
