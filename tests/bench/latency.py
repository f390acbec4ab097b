"""From publish to outcome at a fixed rate, counted from the instant that was due: over NATS and over HTTP PATCH.

Run by `python -m bench`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench import goals
from bench.filling import fill, fill_over_http, fold_all
from bench.processes import Ended, Task, work, work_beside
from bench.report import Goal, Measure, Report, Samples, suffix_of
from bench.system import Options, Whole, whole_system
from bench.tasks.outcome import patch_over_http, publish_over_nats
from refold.bench import machine
from refold.bench.workload import Kind, Workload

NATS: Final = "publish → outcome over NATS"
HTTP: Final = "publish → outcome over HTTP"
GROUND: Final = "publish → acknowledgement on the bare wire"
GOALS: Final[dict[str, dict[str, Goal]]] = {NATS: goals.OUTCOME_NATS, HTTP: goals.OUTCOME_HTTP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much."""

    rate: float = 1_000.0
    seconds: float = 8.0
    documents: int = 1_000
    document_bytes: int = 2_048
    documents_kind: Kind = "random"

    def workload(self, prefix: str) -> Workload:
        """Return the events of one measurement: documents of its own, made before."""
        return Workload(prefix=prefix, **self.shape())

    def shape(self) -> dict[str, Any]:
        """Return the arguments of `Workload`."""
        return {
            "documents": self.documents,
            "document_bytes": self.document_bytes,
            "kind": self.documents_kind,
        }

    def given(self, prefix: str) -> dict[str, Any]:
        """Return the arguments of a task."""
        return {"rate": self.rate, "seconds": self.seconds, "prefix": prefix, **self.shape()}


async def run(options: Options, plan: Plan) -> Report:
    """Publish over NATS, then over HTTP; a running system only over HTTP."""
    samples = Samples(suffix_of(plan.documents_kind))
    if options.url is not None:
        for number in range(1, options.rounds + 1):
            prefix = f"l{time.time_ns()}-"
            await fill_over_http(options.url, plan.workload(prefix).puts())
            ended = await work(patch_over_http, url=options.url, **plan.given(prefix))
            _note(HTTP, ended, options, samples)
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
        (NATS, publish_over_nats, {"url": system.nats, "is_outcome": True}),
        (HTTP, patch_over_http, {"url": system.http}),
        (GROUND, publish_over_nats, {"url": system.nats, "is_outcome": False}),
    ]
    samples.calibrate()
    for place, (name, task, given) in enumerate(protocols):
        prefix = f"l{number}-{place}-"
        await fill(system.nats, plan.workload(prefix).puts())
        await fold_all(system)
        ended, used = await work_beside(system.pids, task, **plan.given(prefix), **given)
        _note(name, ended, options, samples)
        if name != GROUND:
            measure = Measure(unit="µs/event", durability=options.durability)
            client = ("load client", ended.cpu_seconds)
            samples.add_cpu(name, used, len(ended.value["milliseconds"]), measure, client=client)
    await fold_all(system)
    options.say(f"round {number} done")


def _note(name: str, ended: Ended, options: Options, samples: Samples) -> None:
    is_ground = name == GROUND
    measure = Measure(
        unit="ms",
        durability=options.durability,
        ground="" if is_ground or options.url else GROUND,
        is_ground=is_ground,
    )
    samples.add_latency(name, ended.value["milliseconds"], measure, GOALS.get(name))
