"""Latest states over HTTP and by SQL, beside a static answer of the same server. Run by `python -m bench`."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench import goals
from bench.filling import fill, fill_over_http, fold_all
from bench.ground.selecting import select_states
from bench.ground.static import static_server
from bench.http_load import read_for
from bench.processes import Ended, work, work_beside
from bench.report import NO_DISK, Measure, Report, Samples, suffix_of
from bench.system import Options, Whole, whole_system
from refold.bench import machine
from refold.bench.workload import NAMESPACE, Kind, Workload

IN_FLIGHT: Final = (1, 16, 64)
CONNECTIONS: Final = (1, 8)
PATHS: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much, and how long each way of reading is measured in a round."""

    documents: int = 3_000
    document_bytes: int = 2_048
    documents_kind: Kind = "random"
    seconds: float = 4.0
    has_ground: bool = True


async def run(options: Options, plan: Plan) -> Report:
    """Make documents, then read them in every way each round."""
    samples = Samples(suffix_of(plan.documents_kind))
    workload = Workload(
        documents=plan.documents, document_bytes=plan.document_bytes, kind=plan.documents_kind
    )
    if options.url is not None:
        await fill_over_http(options.url, workload.puts())
        await _rounds(options.url, None, plan, options, samples)
    else:
        async with whole_system(options) as system:
            await fill(system.nats, workload.puts())
            await fold_all(system)
            await _rounds(system.http, system, plan, options, samples)
    return Report(
        command="read",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _rounds(url: str, system: Whole | None, plan: Plan, options: Options, samples: Samples) -> None:
    for number in range(1, options.rounds + 1):
        names = _names(plan, number)
        samples.calibrate()
        for in_flight in IN_FLIGHT:
            await _over_http(url, system, names, in_flight, plan, samples)
        if plan.has_ground:
            async with static_server(plan.document_bytes) as address:
                await _static(address, names, plan, samples)
        if system is not None:
            await _by_sql(system, names, plan, samples)
        options.say(f"round {number} done")


async def _over_http(
    url: str, system: Whole | None, names: list[str], in_flight: int, plan: Plan, samples: Samples
) -> None:
    paths = [f"/v1/{NAMESPACE}/{name}" for name in names]
    pids = system.pids if system else ()
    given: dict[str, Any] = {"paths": paths, "in_flight": in_flight, "seconds": plan.seconds}
    ended, used = await work_beside(pids, read_for, url=url, **given)
    name = f"latest over HTTP, {in_flight} in flight"
    goal = goals.LATEST if in_flight == IN_FLIGHT[-1] else None
    ground = f"static answer, {in_flight} in flight" if plan.has_ground else ""
    _note(name, ended, samples, Measure(unit="reads/s", durability=NO_DISK, goal=goal, ground=ground))
    measure = Measure(unit="µs/read", durability=NO_DISK)
    client = ("load client", ended.cpu_seconds)
    samples.add_cpu(name, used, len(ended.value["milliseconds"]), measure, client=client)


async def _static(address: str, names: list[str], plan: Plan, samples: Samples) -> None:
    for in_flight in IN_FLIGHT:
        given: dict[str, Any] = {"paths": [f"/{name}" for name in names], "in_flight": in_flight}
        ended = await work(read_for, url=address, seconds=plan.seconds, **given)
        measure = Measure(unit="reads/s", durability=NO_DISK, is_ground=True)
        _note(f"static answer, {in_flight} in flight", ended, samples, measure)


async def _by_sql(system: Whole, names: list[str], plan: Plan, samples: Samples) -> None:
    dsn = system.reached.required("postgres_url")
    for kind, is_ground in (("view", False), ("row", True))[: 1 + plan.has_ground]:
        for connections in CONNECTIONS:
            ended = await work(
                select_states,
                dsn=dsn,
                kind=kind,
                documents=names,
                connections=connections,
                seconds=plan.seconds,
            )
            by = "1 connection" if connections == 1 else f"{connections} connections"
            name = f"plain SELECT of the row by {by}" if is_ground else f"latest by SQL view by {by}"
            _note(name, ended, samples, Measure(unit="reads/s", durability=NO_DISK, is_ground=is_ground))


def _note(name: str, ended: Ended, samples: Samples, measure: Measure) -> None:
    taken = ended.value["milliseconds"]
    samples.add(name, len(taken) / ended.value["seconds"], measure)
    samples.add_latency(name, taken, Measure(unit="ms", durability=NO_DISK, is_ground=measure.is_ground))


def _names(plan: Plan, seed: int) -> list[str]:
    workload = Workload(documents=plan.documents)
    chosen = random.Random(seed)
    return [workload.name(chosen.randrange(plan.documents)) for _ in range(PATHS)]
