"""The Python client: writers that wait for the fold, bulks whose outcomes are waited for, loads of the middle version.

The same kind of work as that of `bench.peers`, with the processor time of every group of processes. Run by `python -m
bench`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench import goals
from bench.ground.publishing import publish_with_nats_py
from bench.processes import Ended, Task, work, work_beside
from bench.report import NO_DISK, Measure, Report, Samples
from bench.system import Options, Whole, whole_system
from bench.tasks.client import append_in_bulk, load_middle_versions, write_strictly
from refold.bench import machine

WRITERS: Final = (1, 8, 64)
BULK_EVENTS: Final = 1_000
CLIENT: Final = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each kind of work is measured in a round."""

    seconds: float = 4.0


async def run(options: Options, plan: Plan) -> Report:
    """Write, post and load in each round; a running system is measured without its processes and its log."""
    samples = Samples()
    if options.url is not None:
        for number in range(1, options.rounds + 1):
            await _round(options.url, None, plan, options, samples)
            options.say(f"round {number} done")
    else:
        async with whole_system(options) as system:
            for number in range(1, options.rounds + 1):
                await _round(system.http, system, plan, options, samples)
                options.say(f"round {number} done")
    return Report(
        command="sdk",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _round(url: str, system: Whole | None, plan: Plan, options: Options, samples: Samples) -> None:
    samples.calibrate()
    prefix, kept = f"s{time.time_ns()}-", options.durability

    async def measured(task: Task, **given: Any) -> tuple[Ended, dict[str, float]]:
        pids = system.pids if system else ()
        return await work_beside(pids, task, url=url, seconds=plan.seconds, **given)

    for writers in WRITERS:
        name = f"write by {'1 writer' if writers == 1 else f'{writers} writers'}, waits for the fold"
        ended, used = await measured(write_strictly, writers=writers, prefix=f"{prefix}w{writers}-")
        ground = f"publish → acknowledgement with nats-py, {writers} at once" if system else ""
        rate = Measure(unit="events/s", durability=kept, goal=goals.WRITERS[writers], ground=ground)
        _note(name, ended, used, rate, samples, is_write=True)
        if system is not None:
            await _ground(ground, system, writers, plan, samples, kept=rate)
    ended, used = await measured(append_in_bulk, size=BULK_EVENTS, prefix=f"{prefix}b-")
    bulk, events = f"bulk POST of {BULK_EVENTS:,}, outcomes waited for", ended.value["events"]
    measure = Measure(unit="events/s", durability=kept, goal=goals.BULK)
    samples.add(bulk, events / ended.value["seconds"], measure)
    cpu = Measure(unit="µs/event", durability=kept)
    samples.add_cpu(bulk, used, events, cpu, client=(CLIENT, ended.cpu_seconds))
    ended, used = await measured(load_middle_versions, prefix=f"{prefix}m-")
    rate = Measure(unit="reads/s", durability=NO_DISK, goal=goals.MIDDLE_VERSION)
    _note("middle version by one client", ended, used, rate, samples)


async def _ground(
    name: str, system: Whole, writers: int, plan: Plan, samples: Samples, kept: Measure
) -> None:
    ended = await work(publish_with_nats_py, url=system.nats, writers=writers, seconds=plan.seconds)
    measure = Measure(unit="events/s", durability=kept.durability, is_ground=True)
    samples.add(name, ended.value["events"] / ended.value["seconds"], measure)


def _note(
    name: str,
    ended: Ended,
    used: dict[str, float],
    rate: Measure,
    samples: Samples,
    *,
    is_write: bool = False,
) -> None:
    taken = ended.value["milliseconds"]
    samples.add(name, len(taken) / ended.value["seconds"], rate)
    samples.add_latency(name, taken, Measure(unit="ms", durability=rate.durability))
    each = Measure(unit="µs/event" if is_write else "µs/read", durability=rate.durability)
    samples.add_cpu(name, used, len(taken), each, client=(CLIENT, ended.cpu_seconds))
