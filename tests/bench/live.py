"""A publisher, the projector and both servers together: events committed a second, and the lag.

Run by `python -m bench`, and by `bench.growth` at several sizes; `bench.telemetry` publishes as it does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bench import goals
from bench.filling import fill, fold_all, until_committed
from bench.ground.rows import checkpoint
from bench.internals import Projection, open_projection
from bench.processes import Worker
from bench.report import NO_DISK, Measure, Report, Samples, suffix_of
from bench.system import Options, Whole, refuse_url, whole_system
from bench.tasks.publish import publish_batches
from bench.usage import ProcessorClock, peak_bytes
from refold.bench import machine, percentiles
from refold.bench.workload import Kind, Workload
from refold.core.errors import RefoldError
from refold.log import EventLog
from refold.wiring.servers import open_log

LOOK_SECONDS: Final = 0.1
WARM_UP_SHARE: Final = 0.15
LEAST_RATE: Final = 500.0
FIRST_RATE: Final = 4_000.0
RATE_MAX: Final = 128_000.0
PRECISION: Final = 1.08
LOWERED: Final = 1.1
ATTEMPTS_MAX: Final = 6
"""A rate that was found is lowered by this, so often at most, until every round keeps up with it; else it is 0."""

KEPT_PACE_SHARE: Final = 0.97
MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much. `rate` 0 is as fast as possible; `finds_rate` finds the highest sustained rate, then measures at it."""

    rate: float = 0.0
    seconds: float = 20.0
    documents: int = 3_000
    document_bytes: int = 2_048
    documents_kind: Kind = "random"
    prefilled: int = 0
    finds_rate: bool = False
    trial_seconds: float = 6.0
    stale_share: float = 0.0
    traced_share: float = 0.0

    @property
    def name(self) -> str:
        """What the figures of this run are called: runs at different rates have different names."""
        if self.finds_rate:
            return "live at the rate found"
        return f"live at {self.rate:,.0f}/s" if self.rate else "live flat out"

    def workload(self, prefix: str) -> Workload:
        """Return events of documents of their own."""
        return Workload(
            documents=self.documents,
            document_bytes=self.document_bytes,
            prefix=prefix,
            kind=self.documents_kind,
        )


@dataclass(slots=True, kw_only=True)
class Course:
    """Samples taken while the publisher ran, one each tenth of a second."""

    at: list[float] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    behind_seconds: list[float] = field(default_factory=list)
    behind_events: list[int] = field(default_factory=list)
    published: int = 0
    published_seconds: float = 0.0
    folded_seconds: float = 0.0
    used: dict[str, float] = field(default_factory=dict)
    publisher_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Events committed per second, without the start."""
        first = self._first()
        return (self.committed[-1] - self.committed[first]) / (self.at[-1] - self.at[first])

    @property
    def whole_rate(self) -> float:
        """Events per second from the first published to the last committed: no part of a commit is counted wrongly."""
        return self.published / self.folded_seconds

    @property
    def lags(self) -> list[float]:
        """The lag in seconds, without the start, sorted."""
        return sorted(self.behind_seconds[self._first() :])

    def keeps_up_with(self, rate: float) -> bool:
        """Return whether a rate was published and folded with less than a second of lag."""
        return (
            self.published / self.published_seconds >= KEPT_PACE_SHARE * rate
            and self.lags[-1] < goals.LIVE_LAG.value
        )

    def _first(self) -> int:
        return min(int(len(self.at) * WARM_UP_SHARE), len(self.at) - 2)


async def run(options: Options, plan: Plan) -> Report:
    """Publish for some seconds each round, at one rate."""
    refuse_url(options, "it watches the log, the database and the processes of a system of its own")
    async with whole_system(options) as system, watching(system) as watch:
        if plan.prefilled:
            await fill(system.nats, plan.workload("before-").events(plan.prefilled))
            await fold_all(system)
        rate = await _find(system, watch, plan, options) if plan.finds_rate else plan.rate
        for attempt in range(ATTEMPTS_MAX if plan.finds_rate else 1):
            samples, tried = Samples(suffix_of(plan.documents_kind)), rate / LOWERED**attempt
            is_kept = await _rounds(system, watch, plan, options, samples, tried, f"r{attempt}")
            if is_kept or not plan.finds_rate:
                break
            options.say(f"{tried:,.0f} events/s: too much for one of the rounds")
        if plan.finds_rate:
            found = Measure(unit="events/s", durability=options.durability, goal=goals.LIVE)
            held = tried if is_kept else 0.0
            samples.add("live, highest rate with lag under 1 s in each round", held, found)
    return Report(
        command="live",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _rounds(
    system: Whole, watch: Watch, plan: Plan, options: Options, samples: Samples, rate: float, prefix: str
) -> bool:
    """Publish at one rate in each round; return whether all rounds kept up. A search ends at one that did not."""
    for number in range(1, options.rounds + 1):
        samples.calibrate()
        course = await publish(system, watch, plan, f"{prefix}-{number}-", rate, plan.seconds)
        _note(course, plan, options, samples)
        peak = peak_bytes(system.pid("projector")) / MEBIBYTE
        memory = Measure(unit="MiB", durability=NO_DISK)
        samples.add(f"{plan.name}, projector's memory at most", peak, memory)
        options.say(f"round {number}: {course.rate:,.0f} events/s, lag at most {course.lags[-1]:.2f} s")
        if plan.finds_rate and not course.keeps_up_with(rate):
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The log and the projection of a system, to look at how far they are."""

    log: EventLog
    projection: Projection

    async def look(self, course: Course) -> None:
        """Sample the age of the newest committed event by the broker's clock, if there are newer ones."""
        found = await self.projection.progress()
        info = await self.log.info()
        behind = info.last_sequence - found.sequence
        course.at.append(time.perf_counter())
        course.committed.append(found.sequence)
        course.behind_events.append(behind)
        course.behind_seconds.append(max(0.0, (info.time - found.recorded_at) / 1e9) if behind else 0.0)


@asynccontextmanager
async def watching(system: Whole) -> AsyncIterator[Watch]:
    """Connect to both."""
    settings = system.reached
    log = await open_log(settings.required("nats_url"), "refold-bench-watch")
    try:
        async with open_projection(settings) as projection:
            yield Watch(log=log, projection=projection)
    finally:
        await log.close()


async def publish(
    system: Whole,
    watch: Watch,
    plan: Plan,
    prefix: str,
    rate: float,
    seconds: float,
    begin: Callable[[], None] = lambda: None,
) -> Course:
    """Let the publisher run, sampling; then wait until all of it is folded. `begin` is called as it begins."""
    shape = {
        "documents": plan.documents,
        "document_bytes": plan.document_bytes,
        "kind": plan.documents_kind,
        "stale_share": plan.stale_share,
        "traced_share": plan.traced_share,
    }
    await fill(system.nats, plan.workload(prefix).puts())
    await fold_all(system)
    await checkpoint(system.reached.required("postgres_url"))
    course = Course()
    given: dict[str, Any] = {"url": system.nats, "prefix": prefix, "rate": rate, "seconds": seconds}
    async with await Worker.start(publish_batches, **given, **shape) as publisher:
        await publisher.ready()
        clock = ProcessorClock(system.pids)
        publisher.go()
        started = time.perf_counter()
        begin()
        ending = asyncio.create_task(publisher.ended(), name="publisher")
        while not ending.done():
            await watch.look(course)
            await asyncio.wait({ending}, timeout=LOOK_SECONDS)
        ended = ending.result()
    await watch.look(course)
    course.published, course.published_seconds = ended.value["events"], ended.value["seconds"]
    await _until_folded(watch, course)
    course.folded_seconds = time.perf_counter() - started
    course.used, course.publisher_seconds = clock.seconds(), ended.cpu_seconds
    return course


async def _until_folded(watch: Watch, course: Course) -> None:
    """Wait for the rest and compare the counts with what was published."""
    last = (await watch.log.info()).last_sequence
    await until_committed(watch.projection, last)
    if last - course.committed[0] < course.published:
        raise RefoldError(
            "acknowledged and not folded", events=course.published, found=last - course.committed[0]
        )
    if rejected := (await watch.projection.progress()).rejected:
        raise RefoldError("events were rejected", rejected=rejected)


async def _find(system: Whole, watch: Watch, plan: Plan, options: Options) -> float:
    """Double the rate until it is too high, then bisect."""
    low, high, number = 0.0, RATE_MAX, 0
    while high / max(low, LEAST_RATE) > PRECISION:
        trial = (
            max(FIRST_RATE, low * 2)
            if high == RATE_MAX and low < RATE_MAX / 2
            else (max(low, LEAST_RATE) * high) ** 0.5
        )
        number += 1
        course = await publish(system, watch, plan, f"f{number}-", trial, plan.trial_seconds)
        is_kept = course.keeps_up_with(trial)
        low, high = (trial, high) if is_kept else (low, trial)
        said = "kept up" if is_kept else "too much"
        options.say(f"{trial:,.0f} events/s: {said}, lag at most {course.lags[-1]:.2f} s")
    return low


def _note(course: Course, plan: Plan, options: Options, samples: Samples) -> None:
    name, kept = plan.name, options.durability
    rate = Measure(unit="events/s", durability=kept)
    samples.add(f"{name}, folded and committed", course.rate, rate)
    samples.add(f"{name}, published", course.published / course.published_seconds, rate)
    for percentile, value in percentiles(course.lags).items():
        # Flat out, the lag only grows.
        goal = goals.LIVE_LAG if percentile == "max" and (plan.rate or plan.finds_rate) else None
        samples.add(f"{name}, lag {percentile}", value, Measure(unit="s", durability=kept, goal=goal))
    most = float(max(course.behind_events))
    samples.add(f"{name}, events behind at most", most, Measure(unit="events", durability=kept))
    measure = Measure(unit="µs/event", durability=kept)
    client = ("publisher", course.publisher_seconds)
    samples.add_cpu(name, course.used, course.published, measure, client=client)
