"""What telemetry costs: traces to collectors that work or do not, everything on, and a profile while it is made.

Run by `python -m bench telemetry`. Both sides of each pair are measured in one run, in alternating order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from bench import live
from bench.live import MEBIBYTE, Course, publish, watching
from bench.processes import work_beside
from bench.report import NO_DISK, Measure, Report, Samples
from bench.system import Options, Whole, refuse_url, whole_system
from bench.tasks.client import write_strictly
from bench.usage import peak_bytes
from refold.bench import machine, percentiles
from refold.embedded import read_endpoints
from refold.telemetry.http import Response, get
from refold.wiring.profiling import ask_for_profile
from support.collector import collecting
from support.system import free_port

MEASUREMENTS: Final = ("collectors", "everything", "writes", "profile")
DELAYS: Final[Mapping[str, float | None]] = {"healthy": 0.0, "hanging": None, "slow": 5.0}
COLLECTORS: Final = ("off", "healthy", "hanging", "refusing", "slow")
ALERTS: Final = Path(__file__).parents[2] / "infra" / "alerts.toml"
SCRAPE_SECONDS: Final = 1.0
SCRAPE_SECONDS_MAX: Final = 10.0
WRITERS: Final = 64
PROFILED: Final = ("FoldState.fold", "fold_usual", "apply_plain")
"""Functions of the fold, whose shares of the time are reported."""

SHARE: Final = Measure(unit="% of off", durability=NO_DISK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What and how much: `rate` is of `collectors`, `pair_seconds` of each side of the others."""

    measurements: tuple[str, ...] = MEASUREMENTS
    rate: float = 5_000.0
    seconds: float = 60.0
    pair_seconds: float = 10.0
    traced_share: float = 0.01
    documents: int = 3_000
    document_bytes: int = 2_048

    def load(self, rate: float, seconds: float) -> live.Plan:
        """Return what is published."""
        return live.Plan(
            rate=rate,
            seconds=seconds,
            documents=self.documents,
            document_bytes=self.document_bytes,
            traced_share=self.traced_share,
        )


async def run(options: Options, plan: Plan) -> Report:
    """Measure in each round; the order of the sides changes from round to round."""
    refuse_url(options, "it starts systems of its own")
    samples, measured = Samples(), {"collectors": _collectors, "everything": _everything}
    measured |= {"writes": _writes, "profile": _profile}
    for number in range(options.rounds):
        samples.calibrate()
        for name in plan.measurements:
            await measured[name](options, plan, samples, number)
            options.say(f"round {number + 1}: {name} done")
    return Report(
        command="telemetry",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


# --- Collectors at a rate --------------------------------------------------------------------------------


async def _collectors(options: Options, plan: Plan, samples: Samples, number: int) -> None:
    """Publish at one rate, with each kind of collector."""
    cpu: dict[str, float] = {}
    turn = number % len(COLLECTORS)
    for kind in COLLECTORS[turn:] + COLLECTORS[:turn]:
        with _collector(kind) as url:
            async with whole_system(options, otlp_url=url) as system, watching(system) as watch:
                course = await publish(
                    system, watch, plan.load(plan.rate, plan.seconds), "c-", plan.rate, plan.seconds
                )
                cpu[kind] = course.used["projector"] / course.published
                await _note_collector(system, course, kind, plan, options, samples)
    for kind in COLLECTORS[1:]:
        samples.add(f"collector {kind}, CPU of projector", _share(cpu[kind], cpu["off"]), SHARE)


def _share(value: float, of: float) -> float:
    return value / of * 100


@contextmanager
def _collector(kind: str) -> Iterator[str | None]:
    """Run a collector; None where traces are off."""
    if kind in DELAYS:
        with collecting(DELAYS[kind]) as collector:
            yield collector.url
    else:
        yield None if kind == "off" else f"http://127.0.0.1:{free_port()}"


async def _note_collector(
    system: Whole, course: Course, kind: str, plan: Plan, options: Options, samples: Samples
) -> None:
    name = f"collector {kind}, {plan.rate:,.0f}/s"
    samples.add(
        f"{name}, folded and committed", course.rate, Measure(unit="events/s", durability=options.durability)
    )
    for percentile, value in percentiles(course.lags).items():
        samples.add(f"{name}, lag {percentile}", value, Measure(unit="s", durability=options.durability))
    samples.add_cpu(
        name, course.used, course.published, Measure(unit="µs/event", durability=options.durability)
    )
    memory = peak_bytes(system.pid("projector")) / MEBIBYTE
    samples.add(f"{name}, projector's memory at most", memory, Measure(unit="MiB", durability=NO_DISK))
    counts = await _spans(system)
    for result in ("sent", "failed", "dropped", "over"):
        spans = Measure(unit="spans", durability=NO_DISK)
        samples.add(f"{name}, spans {result}", counts.get(result, 0.0), spans)


async def _spans(system: Whole) -> dict[str, float]:
    """Return the projector's spans by result."""
    answer = await _scrape(_services(system)["projector"])
    return {
        sample.labels["result"]: sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        if sample.name == "refold_spans_total"
    }


def _services(system: Whole) -> dict[str, str]:
    services: dict[str, str] = read_endpoints(system.folder)["services"]
    return services


async def _scrape(url: str) -> Response:
    return await get(f"{url}/metrics", seconds=SCRAPE_SECONDS_MAX)


# --- Everything on and off -------------------------------------------------------------------------------


@asynccontextmanager
async def _system(options: Options, plan: Plan, *, is_on: bool) -> AsyncIterator[Whole]:
    """Start a system without telemetry, or with traces, a scrape of all metrics a second, and the alert engine."""
    if not is_on:
        async with whole_system(options) as system:
            yield system
        return
    with collecting() as collector:
        settings = {"otlp_url": collector.url, "trace_ratio": plan.traced_share, "alerts": ALERTS}
        async with whole_system(options, **settings) as system:
            scraping = asyncio.create_task(_scrape_all(system), name="scrape")
            yield system
            scraping.cancel()


async def _scrape_all(system: Whole) -> None:
    """Ask every service for its metrics, as Prometheus does."""
    while True:
        await asyncio.gather(*(_scrape(url) for url in _services(system).values()))
        await asyncio.sleep(SCRAPE_SECONDS)


def _sides(number: int) -> tuple[bool, bool]:
    """Return whether telemetry is on, in the order of a round."""
    return (False, True) if number % 2 == 0 else (True, False)


async def _everything(options: Options, plan: Plan, samples: Samples, number: int) -> None:
    """Publish as fast as possible, on both sides."""
    courses: dict[bool, Course] = {}
    for is_on in _sides(number):
        async with _system(options, plan, is_on=is_on) as system, watching(system) as watch:
            load = plan.load(0.0, plan.pair_seconds)
            courses[is_on] = await publish(system, watch, load, "e-", 0.0, plan.pair_seconds)
            name = f"flat out, telemetry {'on' if is_on else 'off'}"
            course = courses[is_on]
            samples.add(name, course.whole_rate, Measure(unit="events/s", durability=options.durability))
            cpu = Measure(unit="µs/event", durability=options.durability)
            samples.add_cpu(name, course.used, course.published, cpu)
    on, off = courses[True], courses[False]
    samples.add("flat out, throughput with telemetry on", _share(on.whole_rate, off.whole_rate), SHARE)
    used = on.used["projector"] / on.published, off.used["projector"] / off.published
    samples.add("flat out, CPU of projector with telemetry on", _share(*used), SHARE)


async def _writes(options: Options, plan: Plan, samples: Samples, number: int) -> None:
    """Write through the client, on both sides."""
    rates: dict[bool, float] = {}
    for is_on in _sides(number):
        async with _system(options, plan, is_on=is_on) as system:
            given = {"url": system.http, "seconds": plan.pair_seconds, "writers": WRITERS, "prefix": "w-"}
            ended, used = await work_beside(system.pids, write_strictly, **given)
            writes = len(ended.value["milliseconds"])
            rates[is_on] = writes / ended.value["seconds"]
            name = f"{WRITERS} writers, telemetry {'on' if is_on else 'off'}"
            samples.add(name, rates[is_on], Measure(unit="writes/s", durability=options.durability))
            samples.add_cpu(name, used, writes, Measure(unit="µs/write", durability=options.durability))
    share = _share(rates[True], rates[False])
    samples.add(f"{WRITERS} writers, throughput with telemetry on", share, SHARE)


# --- A profile -------------------------------------------------------------------------------------------


async def _profile(options: Options, plan: Plan, samples: Samples, _: int) -> None:
    """Publish as fast as possible before, during and after a profile of the projector."""
    profiles: list[asyncio.Task[tuple[dict[str, Any], bytes]]] = []
    async with whole_system(options, profiling=True) as system, watching(system) as watch:

        def begin() -> None:
            asked = ask_for_profile(system.folder, "projector", None, seconds=plan.pair_seconds, shape="text")
            profiles.append(asyncio.create_task(asked, name="profile"))

        async def course(prefix: str, begin: Callable[[], None] = lambda: None) -> Course:
            load = plan.load(0.0, plan.pair_seconds)
            return await publish(system, watch, load, prefix, 0.0, plan.pair_seconds, begin)

        before, during = await course("b-"), await course("d-", begin)
        facts, profile = await profiles[0]
        after = await course("a-")
    for name, each in (("before", before), ("during", during), ("after", after)):
        rate = Measure(unit="events/s", durability=options.durability)
        samples.add(f"flat out {name} a profile", each.whole_rate, rate)
    first, profiled, last = (each.used["projector"] / each.published for each in (before, during, after))
    samples.add("CPU of projector during a profile", _share(profiled, (first + last) / 2), SHARE)
    samples.add("CPU of projector after a profile", _share(last, first), SHARE)
    reported = Measure(unit="%", durability=NO_DISK)
    samples.add("overhead that the profile reports", facts["overhead"] * 100, reported)
    _, _, calls = profile.decode().partition("\n\n")
    for function in PROFILED:
        shares = [line.split()[0] for line in calls.splitlines() if line.split()[1] == function]
        share = sum(float(each.rstrip("%")) for each in shares)
        samples.add(f"share of {function} in the profile, with what it calls", share, reported)
