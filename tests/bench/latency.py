"""From publish to outcome at a fixed rate, counted from the instant that was due: over NATS and over HTTP PATCH.

Run by `python -m bench`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.filling import fill, fill_over_http, fold_all
from bench.processes import Ended, Task, work
from bench.report import Goal, Measure, Report, Samples
from bench.system import Options, Whole, whole_system
from bench.tasks.outcome import patch_over_http, publish_over_nats
from bench.usage import ProcessorClock
from refold.bench.figures import machine
from refold.bench.workload import Workload

GOALS: Final = {"p50": Goal(value=3, is_upper=True), "p99": Goal(value=10, is_upper=True)}
GROUND: Final = "publish → acknowledgement on the bare wire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much."""

    rate: float = 1_000.0
    seconds: float = 8.0
    documents: int = 1_000
    document_bytes: int = 2_048

    def workload(self, prefix: str) -> Workload:
        """Return the events of one measurement: documents of its own, made before."""
        return Workload(documents=self.documents, document_bytes=self.document_bytes, prefix=prefix)


async def run(options: Options, plan: Plan) -> Report:
    """Publish over NATS, then over HTTP; a running system only over HTTP."""
    samples = Samples()
    if options.url is not None:
        for number in range(1, options.rounds + 1):
            prefix = f"l{time.time_ns()}-"
            await fill_over_http(options.url, plan.workload(prefix).puts())
            ended = await work(patch_over_http, url=options.url, prefix=prefix, **asdict(plan))
            _note("publish → outcome over HTTP", ended, options, samples)
            options.say(f"round {number} done")
    else:
        async with whole_system(options) as system:
            for number in range(1, options.rounds + 1):
                await _round(system, plan, options, samples, number)
    return Report(
        command="latency",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _round(system: Whole, plan: Plan, options: Options, samples: Samples, number: int) -> None:
    protocols: list[tuple[str, Task, dict[str, Any]]] = [
        ("publish → outcome over NATS", publish_over_nats, {"url": system.nats, "is_outcome": True}),
        ("publish → outcome over HTTP", patch_over_http, {"url": system.http}),
        (GROUND, publish_over_nats, {"url": system.nats, "is_outcome": False}),
    ]
    for place, (name, task, given) in enumerate(protocols):
        prefix = f"l{number}-{place}-"
        await fill(system.nats, plan.workload(prefix).puts())
        await fold_all(system)
        clock = ProcessorClock(system.pids)
        ended = await work(task, prefix=prefix, **asdict(plan), **given)
        _note(name, ended, options, samples)
        if name != GROUND:
            for who, seconds in clock.seconds().items():
                measure = Measure(unit="µs/event", durability=options.durability)
                spent = seconds * 1e6 / len(ended.value["milliseconds"])
                samples.add(f"{name}, processor of {who}", spent, measure)
    await fold_all(system)
    options.say(f"round {number} done")


def _note(name: str, ended: Ended, options: Options, samples: Samples) -> None:
    is_ground = name == GROUND
    measure = Measure(
        unit="ms",
        durability=options.durability,
        ground="" if is_ground or options.url else f"{GROUND}, p50",
        is_ground=is_ground,
    )
    samples.add_latency(name, ended.value["milliseconds"], measure, None if is_ground else GOALS)
